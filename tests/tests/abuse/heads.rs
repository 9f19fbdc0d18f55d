//! Heads of requests and answers that are long, many, or contradict themselves.
