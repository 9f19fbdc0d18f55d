package main

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a protobuf message as its fields, in order.
type message []field

type field struct {
	number protowire.Number
	bytes  []byte
	varint uint64
}

func parse(data []byte) (message, error) {
	var fields message
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		data = data[n:]
		f := field{number: number}
		switch kind {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(data)
		default:
			return nil, fmt.Errorf("field %d has wire type %d", number, kind)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		data = data[n:]
		fields = append(fields, f)
	}
	return fields, nil
}

// oneof is for messages that hold exactly one member: its number and content.
func oneof(data []byte) (protowire.Number, []byte, error) {
	fields, err := parse(data)
	if err != nil {
		return 0, nil, err
	}
	if len(fields) != 1 {
		return 0, nil, fmt.Errorf("%d members where one is required", len(fields))
	}
	return fields[0].number, fields[0].bytes, nil
}

// get gives the last field of a number, as protobuf does; nil when absent.
func (m message) get(number protowire.Number) []byte {
	var found []byte
	for _, f := range m {
		if f.number == number {
			found = f.bytes
		}
	}
	return found
}

func (m message) varint(number protowire.Number) (uint64, bool) {
	for _, f := range m {
		if f.number == number {
			return f.varint, true
		}
	}
	return 0, false
}

// multimap reads map<string, Values>.
func (m message) multimap(number protowire.Number) (map[string][]string, error) {
	result := map[string][]string{}
	for _, f := range m {
		if f.number != number {
			continue
		}
		entry, err := parse(f.bytes)
		if err != nil {
			return nil, err
		}
		values, err := parse(entry.get(2))
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			key := string(entry.get(1))
			result[key] = append(result[key], string(value.bytes))
		}
	}
	return result, nil
}

// put appends a length-delimited field.
func put(to []byte, number protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), content)
}

func putVarint(to []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, number, protowire.VarintType), value)
}

// putValues appends one entry of a map<string, Values>.
func putValues(to []byte, number protowire.Number, key string, values ...string) []byte {
	var list []byte
	for _, value := range values {
		list = put(list, 1, []byte(value))
	}
	return put(to, number, put(put(nil, 1, []byte(key)), 2, list))
}
