//! Which keys are noted, and where.

use serde::Deserialize;

use super::*;
use crate::yaml::NonEmpty;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Doc {
    outer: Option<Spanned<Outer>>,
    limit: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    name: NonEmpty,
    inner: Option<Inner>,
    many: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    address: Option<Spanned<String>>,
}

fn read(text: &str) -> Result<(Doc, Vec<UnknownKey>), YamlError> {
    read_noting(Path::new("f"), text)
}

#[test]
fn unknown_keys_are_noted_with_path_and_place_and_the_rest_is_read() {
    let text = "zzz: [1, {a: b}]\nouter:\n  name: n\n  nmae: x\n  inner: {adress: y, address: z}\n\
                \u{20}\u{20}many: [a]\nlimit: 3\n";

    let (doc, notes) = read(text).unwrap();

    let outer = doc.outer.unwrap();
    assert_eq!((outer.referenced.line(), outer.referenced.column()), (3, 3));
    assert_eq!(outer.value.name.0, "n");
    assert_eq!(outer.value.many.unwrap(), ["a"]);
    let address = outer.value.inner.unwrap().address.unwrap();
    assert_eq!(
        (address.value.as_str(), address.referenced.column()),
        ("z", 31)
    );
    assert_eq!(doc.limit, Some(3));
    let notes: Vec<_> = notes
        .iter()
        .map(|note| {
            (
                note.line,
                note.column,
                note.path.as_str(),
                note.message.as_str(),
            )
        })
        .collect();
    assert_eq!(
        notes,
        [
            (1, 1, "zzz", "unknown key `zzz`, known are: outer, limit"),
            (
                4,
                3,
                "outer.nmae",
                "unknown key `nmae`, did you mean `name`?"
            ),
            (
                5,
                11,
                "outer.inner.adress",
                "unknown key `adress`, did you mean `address`?"
            ),
        ]
    );
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Choice {
    one: Option<u32>,
    #[serde(rename = "__unknown")]
    unknown: bool,
}

#[test]
fn unknown_keys_in_lists_are_noted_and_told_to_those_who_want_to_know() {
    let text = "- {one: 1, two: 2}\n- {one: 1}\n- {three: 3, __unknown: no, four: [4]}\n- {}";

    let (all, notes) = read_noting::<Vec<Choice>>(Path::new("f"), text).unwrap();

    let told: Vec<_> = all.iter().map(|it| (it.one, it.unknown)).collect();
    let expected = [
        (Some(1), true),
        (Some(1), false),
        (None, true),
        (None, false),
    ];
    assert_eq!(told, expected);
    let paths: Vec<_> = notes.iter().map(|it| (it.line, it.path.as_str())).collect();
    let expected = [
        (1, "[0].two"),
        (3, "[2].three"),
        (3, "[2].__unknown"),
        (3, "[2].four"),
    ];
    assert_eq!(paths, expected);
    assert!(
        !notes[0].message.contains("__unknown"),
        "{}",
        notes[0].message
    );
}

#[test]
fn booleans_and_repeated_keys_are_read_as_go_reads_them() {
    let text = "a: yes\nb: off\nlimit: 1\nlimit: 2\nc: 'yes'\nd: ~\n";

    let written = read_written(Path::new("f"), text).unwrap();
    let (doc, _) = read(text).unwrap();

    let expected = serde_json::json!({"a": true, "b": false, "limit": 2, "c": "yes", "d": null});
    assert_eq!(written, expected);
    assert_eq!(doc.limit, Some(2));
    for text in ["", "~", "null", "# nothing"] {
        assert!(
            read_written(Path::new("f"), text).unwrap().is_null(),
            "{text}"
        );
    }
}

#[test]
fn aliases_cannot_make_a_short_text_long() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e")] {
        let all = vec![format!("*{of}"); 10].join(", ");
        text += &format!("{name}: &{name} [{all}]\n");
    }

    assert!(read_written(Path::new("f"), &text).is_err());
}

#[test]
fn what_is_wrong_stays_a_mistake_with_its_place() {
    for (text, mistake) in [
        ("outer: {name: n}\nlimit: many", "f:2:8: limit: invalid u32"),
        ("outer: {}", "f:1:8: the key `name` is missing here"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with(mistake), "{error}");
    }
}

#[test]
fn nothing_is_an_empty_document() {
    for text in ["", "# nothing\n", "outer:\n", "{}"] {
        let (doc, notes) = read(text).unwrap();
        assert!(doc.outer.is_none() && notes.is_empty(), "{text:?}");
    }
}
