//! The corpus as it is written down, and what its messages are.
//!
//! A file has families: `== NAME`, the lines of a template, and then groups of variants under a verdict, `-- VERDICT`.
//! Each variant is a line that takes the place of the template's `@`, and so makes one message. The ends of lines in
//! the files count for nothing: what goes over the wire is written `\r` `\n` `\t` `\\` `\xHH`; `\e` is nothing, `\#` the
//! message's number, `\;` the end of a field of HTTP/2, and `\*COUNT{…}` a repetition. Verdicts stand for what comes back, answer by answer (` then `):
//!
//! - `forwarded METHOD TARGET HOST "BODY"`: the upstream gets this;
//! - `refused SENTENCE`: 400 `bad-request` with this detail;
//! - `broken SENTENCE`: the same, where an upstream may have seen the beginning of a body;
//! - `answered STATUS [SLUG]`: nothing is forwarded;
//! - `waits`: the gateway waits for more;
//! - `reset` (HTTP/2): the stream is reset.

use std::path::Path;

/// One message of the corpus.
#[derive(Debug)]
pub struct Message {
    /// File, line and family.
    pub place: String,
    /// Unlike any other's.
    pub number: usize,
    /// What goes over the wire.
    pub bytes: Vec<u8>,
    /// What comes of it.
    pub outcomes: Vec<Outcome>,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Forwarded(Expected),
    Refused(String),
    Broken(String),
    Answered(u16, Option<String>),
    Waits,
    Reset,
}

/// What an upstream is to understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub method: String,
    pub target: String,
    pub host: String,
    /// Byte for byte, as Latin-1.
    pub body: String,
}

/// All messages of a folder below `tests/corpus`.
pub fn corpus(folder: &str) -> Vec<Message> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| entry.expect("a folder can be read").path())
        .collect();
    files.sort();
    let mut messages = Vec::new();
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy();
        let text = std::fs::read_to_string(&file).expect("a file of text");
        read(&name, &text, &mut messages);
    }
    messages
}

fn read(file: &str, text: &str, messages: &mut Vec<Message>) {
    let (mut family, mut template, mut outcomes) = ("", String::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            (family, template, outcomes) = (name, String::new(), Vec::new());
        } else if let Some(verdict) = line.strip_prefix("-- ") {
            outcomes = verdict.split(" then ").map(outcome).collect();
        } else if outcomes.is_empty() {
            template.push_str(line);
        } else {
            let number = messages.len();
            messages.push(Message {
                place: format!("{file}:{} ({family}) {line}", index + 1),
                number,
                bytes: unescaped(&template.replacen('@', line, 1), number),
                outcomes: outcomes.clone(),
            });
        }
    }
}

fn outcome(verdict: &str) -> Outcome {
    let (kind, rest) = verdict.split_once(' ').unwrap_or((verdict, ""));
    match kind {
        "forwarded" => {
            let mut words = rest.splitn(4, ' ').map(latin1);
            let mut word = || {
                words
                    .next()
                    .unwrap_or_else(|| panic!("too short: {verdict}"))
            };
            let (method, target, host, body) = (word(), word(), word(), word());
            let body = body.trim_matches('"').to_owned();
            Outcome::Forwarded(Expected {
                method,
                target,
                host,
                body,
            })
        }
        "refused" => Outcome::Refused(rest.to_owned()),
        "broken" => Outcome::Broken(rest.to_owned()),
        "answered" => {
            let (status, slug) = rest.split_once(' ').unwrap_or((rest, ""));
            let slug = (!slug.is_empty()).then(|| slug.to_owned());
            Outcome::Answered(status.parse().expect("a status"), slug)
        }
        "waits" => Outcome::Waits,
        "reset" => Outcome::Reset,
        _ => panic!("no verdict: {verdict}"),
    }
}

fn latin1(text: &str) -> String {
    unescaped(text, 0).into_iter().map(char::from).collect()
}

fn unescaped(text: &str, number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend(rest[..at].bytes());
        let escape = &rest[at + 1..];
        let mut taken = 1;
        match escape.as_bytes().first() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'e') => {}
            Some(b';') => bytes.push(0x1e),
            Some(b'#') => bytes.extend(number.to_string().bytes()),
            Some(b'x') => {
                bytes.push(u8::from_str_radix(&escape[1..3], 16).expect("two digits"));
                taken = 3;
            }
            Some(b'*') => {
                let (start, end) = (escape.find('{').expect("{"), escape.find('}').expect("}"));
                let count = escape[1..start].parse().expect("a count");
                bytes.extend(unescaped(&escape[start + 1..end], number).repeat(count));
                taken = end + 1;
            }
            _ => panic!("no escape: {text}"),
        }
        rest = &escape[taken..];
    }
    bytes.extend(rest.bytes());
    bytes
}
