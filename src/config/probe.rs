//! How an upstream is asked whether an operation happened: section `probe` of a route, lowered.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::file::RouteFile;
use super::finding::{Findings, Place};
use super::fit;
use super::quantity::Positive;
use super::secret::{self, Secret};
use super::setting::{Value, Written, choice, quoted, section, type_in_words};
use super::value::{Partly, Scalar, Text};
use super::words::{ModeWord, OnUnknownWord, ScopeWord, StatusWord, is_framing};
use crate::identity::{JsonPointer, KeyFormat};
use crate::protocol::StatusSet;
use crate::route::{
    KEY, OnUnknown, PathPattern, Probe, ProbePath, ProbeResponse, ProbeValue, Silent, Template,
};

section! {
    /// How the upstream is asked whether an operation of unknown outcome happened. Only with `on_unknown = "probe"`.
    ProbeFile {
        /// GET or HEAD: asking changes nothing.
        method: ProbeMethod = "GET",
        /// Path and query. `{key}` stands for the key, and the name of a segment that the route's path leaves open for
        /// that segment, percent-encoded. A key that a server might read as more than one segment (`/`, `..`) is not
        /// asked about in a path; in a query every key is. Required.
        path: Option<ProbePath>,
        /// Header lines: a text, in which `{key}` stands for the key, or a secret. A duplicate's probe bears the lines of the
        /// duplicate's own scope besides, and instead of those of the same name.
        headers: ProbeHeaders = {},
        /// Statuses that say that it happened.
        found: Partly<StatusWord> = ["200"],
        /// Statuses that say that it did not happen.
        absent: Partly<StatusWord> = ["404"],
        /// For how long after an outcome became unknown the upstream may still be at it, so that `absent` says nothing. By
        /// the clock of each gateway from when it first saw the record. Unless set, 2m or as long as an answer is waited
        /// for, whichever is longer: `late_response`, with `silent = "release"` `response_timeout` and `late_response`
        /// together.
        absent_after: Option<Duration>,
        /// How long asking may take, to the answer's last byte. A duplicate waits for it.
        timeout: Positive<Duration> = "5s",
        /// What `absent` says of an attempt whose gateway crashed or froze: with "hold" nothing, for one that froze may
        /// still send its request; with "release" the key is free again.
        silent: SilentWord = "hold",
        /// What is recorded of an operation that is found: the probe's own answer, all of its JSON body ("json:"), or a
        /// part of that, as in "json:/data/0".
        response: ResponseWord = "probe",
        /// The status of what is recorded with `response = "json:…"`.
        status: FoundStatus = 200,
        /// Whether the upstream is asked in the background, too, with `headers` alone. True unless set where the scope is
        /// ["none"], else false: who has one key in two scopes gets the other one's answer, where the upstream finds
        /// both.
        background: Option<bool>,
    }
    later {}
}

/// For how long `absent` says nothing at least, unless somebody says otherwise.
const ABSENT_AFTER: Duration = Duration::from_secs(120);

choice!(ProbeMethod { Get = "GET", Head = "HEAD" } later {});
choice!(SilentWord { Hold = "hold", Release = "release" } later {});

impl Text for ProbePath {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|wrong| format!("{} is no path: {wrong}", quoted(text)))
    }

    fn kind() -> String {
        "a path such as \"/v1/payments/by-key/{key}\"".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^/");
    }
}

/// What is recorded.
#[derive(Clone, Debug)]
pub(super) enum ResponseWord {
    Probe,
    Json(JsonPointer),
}

impl Text for ResponseWord {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "probe" => Ok(Self::Probe),
            Some(("json", "")) => Ok(Self::Json(JsonPointer::whole())),
            Some(("json", pointer)) => JsonPointer::parse(pointer)
                .map(Self::Json)
                .map_err(|_| format!("is {}", quoted(text))),
            _ => Err(format!("is {}", quoted(text))),
        }
    }

    fn kind() -> String {
        "`probe`, `json:` or `json:/POINTER`".to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!("^(probe|json:(/.*)?)$");
    }
}

/// A status from 200 to 599.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundStatus(pub(super) u16);

impl Scalar for FoundStatus {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Integer(number) = value else {
            return Err(format!("is {}", type_in_words(value)));
        };
        match number.to_string().parse() {
            Ok(status @ 200..=599) => Ok(Self(status)),
            _ => Err(format!("is {number}")),
        }
    }

    fn meant(value: &DeValue<'_>) -> Option<String> {
        value.as_str().map(str::to_owned)
    }

    fn kind() -> String {
        "a status from 200 to 599".to_owned()
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 200, "maximum": 599 })
    }
}

/// Header lines by name.
#[derive(Clone, Debug)]
pub(super) struct ProbeHeaders(Vec<(HeaderName, ProbeHeader, Place)>);

#[derive(Clone, Debug)]
enum ProbeHeader {
    Text(Template),
    Secret(Secret),
}

impl Value for ProbeHeaders {
    fn read(written: &Written<'_>, findings: &mut Findings) -> Option<Self> {
        let DeValue::Table(table) = written.value else {
            written.wrong_type(&Self::kind(), findings);
            return None;
        };
        let mut lines: Vec<(HeaderName, ProbeHeader, Place)> = Vec::new();
        let mut whole = true;
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            let line = written.child(name, value);
            match (header_name(name), header_value(&line, findings)) {
                (Ok(name), Some(value)) => {
                    if lines.iter().any(|(other, ..)| *other == name) {
                        findings.value(&line.place, format!("`{name}` is there twice"));
                    }
                    lines.push((name, value, line.place));
                }
                (Err(wrong), _) => {
                    findings.value(&line.place, wrong);
                    whole = false;
                }
                (Ok(_), None) => whole = false,
            }
        }
        whole.then_some(Self(lines))
    }

    fn kind() -> String {
        "a table of header lines, each a text or a secret (`{ env = \"NAME\" }`, `{ file = \"path\" }`)"
            .to_owned()
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "additionalProperties": { "anyOf": [{ "type": "string" }, Secret::schema()] },
        })
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    let wrong = || format!("{} is not the name of a header", quoted(text));
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| wrong())?;
    let is_ours = is_framing(&name) && name != header::HOST
        || name.as_str().starts_with("oncegate-")
        || name == header::ACCEPT_ENCODING;
    match is_ours {
        true => Err(format!("`{name}` is not yours to set")),
        false => Ok(name),
    }
}

/// What is wrong is said without the text: there may be a secret in it.
fn header_value(line: &Written<'_>, findings: &mut Findings) -> Option<ProbeHeader> {
    let DeValue::String(text) = line.value else {
        if !matches!(line.value, DeValue::Table(_)) {
            line.wrong_type("a text, or the place of a secret", findings);
            return None;
        }
        return Secret::read(line, findings).map(ProbeHeader::Secret);
    };
    let template: Option<Template> = text.parse().ok();
    let template = template.filter(|template| template.names().all(|name| name == KEY));
    if template.is_none() {
        let message = "braces hold `{key}` in a header, and nothing else";
        findings.value(&line.place, message.to_owned());
    }
    let is_fit = HeaderValue::from_str(text).is_ok_and(|value| value.to_str().is_ok());
    if !is_fit || text.trim() != text.as_ref() {
        findings.value(&line.place, "is no value of a header".to_owned());
        return None;
    }
    template.map(ProbeHeader::Text)
}

/// What a duplicate of an operation of unknown outcome meets.
pub(super) fn on_unknown(file: &RouteFile, findings: &mut Findings) -> Option<OnUnknown> {
    let word = file.on_unknown.value();
    let probe = match file.probe.get()? {
        Some(probe) => lowered(probe, file, word == Some(OnUnknownWord::Probe), findings),
        None if word == Some(OnUnknownWord::Probe) => {
            let message = "needs to know how: write `probe` with a `path`, such as \
                           { path = \"/v1/payments/by-key/{key}\" }";
            findings.whole(&file.on_unknown.place, message.to_owned());
            None
        }
        None => None,
    };
    Some(match word? {
        OnUnknownWord::Hold => OnUnknown::Hold,
        OnUnknownWord::Resend => OnUnknown::Resend,
        OnUnknownWord::Probe => OnUnknown::Probe(Box::new(probe?)),
    })
}

/// Refuses a probe that no route uses. One in `defaults` is for those that do.
pub(super) fn unused(files: &[RouteFile], findings: &mut Findings) {
    let probing = |file: &&RouteFile| file.on_unknown.value() == Some(OnUnknownWord::Probe);
    let used: BTreeSet<usize> = files
        .iter()
        .filter(probing)
        .map(|file| file.probe.place.offset)
        .collect();
    let protected = files
        .iter()
        .filter(|file| file.mode.value() != Some(ModeWord::Pass));
    for file in protected.filter(|file| !probing(file)) {
        if let (Some(place), Some(_)) = (file.probe.written(), file.on_unknown.value())
            && !used.contains(&place.offset)
        {
            let message = "is of no use here; write on_unknown = \"probe\", too";
            let other = file.on_unknown.written();
            findings.conflict(place, message.to_owned(), other.as_slice());
        }
    }
}

fn lowered(
    file: &ProbeFile,
    route: &RouteFile,
    is_used: bool,
    findings: &mut Findings,
) -> Option<Probe> {
    let path = path(file, route, findings);
    let headers = headers(file, is_used, findings);
    let (found, absent) = statuses(file, findings)?;
    let method = file.method.value()?;
    let response = response(file, method, findings);
    let is_silence_believed = file.silent.value() == Some(SilentWord::Release);
    let fits = fit::late(is_silence_believed, route);
    if is_used && let Some(fits) = &fits {
        fit::absent_after(&file.absent_after, fits, route, findings);
    }
    let background = background(file, route, is_used, findings);
    Some(Probe {
        method: match method {
            ProbeMethod::Get => Method::GET,
            ProbeMethod::Head => Method::HEAD,
        },
        path: path?,
        headers: headers?,
        found,
        absent,
        absent_after: file
            .absent_after
            .value()?
            .unwrap_or(fits?.1.max(ABSENT_AFTER)),
        timeout: file.timeout.get()?.0,
        silent: match file.silent.value()? {
            SilentWord::Hold => Silent::Hold,
            SilentWord::Release => Silent::Release,
        },
        response: response?,
        background: background?,
    })
}

fn path(file: &ProbeFile, route: &RouteFile, findings: &mut Findings) -> Option<ProbePath> {
    let Some(path) = file.path.value()? else {
        let message = format!("is required; write {}", <ProbePath as Text>::kind());
        findings.whole(&file.path.place, message);
        return None;
    };
    let Some(Some(pattern)) = route.path.get() else {
        return Some(path);
    };
    let others = route.path.written();
    if pattern.names().any(|name| name == KEY) {
        let message = format!(
            "`{{{KEY}}}` stands for the key here, and is a segment of `{pattern}`, too; give the segment another name"
        );
        findings.conflict(&file.path.place, message, others.as_slice());
    }
    for name in path.names().filter(|name| *name != KEY) {
        if !pattern.names().any(|captured| captured == name) {
            findings.conflict(
                &file.path.place,
                uncaptured(name, pattern),
                others.as_slice(),
            );
        }
    }
    if !path.names().any(|name| name == KEY) && !names_key(file) {
        let message = "has no `{key}`, and neither has a header: the upstream cannot know which operation is meant";
        findings.warn(&file.path.place, message.to_owned(), &[]);
    }
    Some(path)
}

fn uncaptured(name: &str, pattern: &PathPattern) -> String {
    let names: Vec<String> = [KEY]
        .into_iter()
        .chain(pattern.names())
        .map(|name| format!("`{{{name}}}`"))
        .collect();
    format!(
        "`{{{name}}}` is no segment of `{pattern}`; there is {}",
        names.join(", ")
    )
}

fn names_key(file: &ProbeFile) -> bool {
    let is_key = |header: &ProbeHeader| match header {
        ProbeHeader::Text(template) => template.names().next().is_some(),
        ProbeHeader::Secret(_) => false,
    };
    let headers = file.headers.get();
    headers.is_none_or(|headers| headers.0.iter().any(|(_, value, _)| is_key(value)))
}

/// Secrets are read only where they are used.
fn headers(
    file: &ProbeFile,
    is_used: bool,
    findings: &mut Findings,
) -> Option<Vec<(HeaderName, ProbeValue)>> {
    let lines = &file.headers.get()?.0;
    let lines: Vec<Option<(HeaderName, ProbeValue)>> = lines
        .iter()
        .map(|(name, value, place)| {
            let value = match value {
                ProbeHeader::Text(template) => ProbeValue::Text(template.clone()),
                ProbeHeader::Secret(secret) if is_used => {
                    let text = secret::text(secret, place, findings)?;
                    let Ok(mut value) = HeaderValue::from_str(&text) else {
                        let message = "the secret is no value of a header";
                        findings.value(place, message.to_owned());
                        return None;
                    };
                    value.set_sensitive(true);
                    ProbeValue::Secret(value)
                }
                ProbeHeader::Secret(_) => return None,
            };
            Some((name.clone(), value))
        })
        .collect();
    lines.into_iter().collect()
}

fn statuses(file: &ProbeFile, findings: &mut Findings) -> Option<(StatusSet, StatusSet)> {
    let set = |words: &[StatusWord]| {
        let words: Vec<&str> = words.iter().map(|word| word.0.as_str()).collect();
        StatusSet::parse(&words).ok()
    };
    let found = set(&file.found.get()?.0)?;
    let absent = set(&file.absent.get()?.0)?;
    if let Some(status) = found.overlap(&absent) {
        let message = format!(
            "{status} is in `found` and in `absent`; it says one of both: take it out of one of the lists"
        );
        let (place, other) = match (file.found.written(), file.absent.written()) {
            (Some(found), Some(absent)) if found.offset > absent.offset => (found, Some(absent)),
            (Some(found), None) => (found, None),
            (found, _) => (&file.absent.place, found),
        };
        findings.conflict(place, message, other.as_slice());
    }
    Some((found, absent))
}

fn response(
    file: &ProbeFile,
    method: ProbeMethod,
    findings: &mut Findings,
) -> Option<ProbeResponse> {
    Some(match file.response.value()? {
        ResponseWord::Probe => {
            if let Some(place) = file.status.written() {
                let message = "the probe's own answer has a status of its own; this is for response = \"json:…\"";
                findings.conflict(
                    place,
                    message.to_owned(),
                    file.response.written().as_slice(),
                );
            }
            ProbeResponse::Probe
        }
        ResponseWord::Json(pointer) => {
            if method == ProbeMethod::Head {
                let message = "an answer to HEAD has no body; write method = \"GET\"";
                let other = file.method.written();
                findings.conflict(&file.response.place, message.to_owned(), other.as_slice());
            }
            ProbeResponse::Json {
                pointer,
                status: file.status.get()?.0,
            }
        }
    })
}

/// Whether the upstream is asked for nobody's sake. There is no scope to ask with then: who has one key in two scopes
/// would get the other one's answer.
fn background(
    file: &ProbeFile,
    route: &RouteFile,
    is_used: bool,
    findings: &mut Findings,
) -> Option<bool> {
    let has_scope = route.scope.value()? != Some(vec![ScopeWord::None]);
    let is_unique = !matches!(
        route.key_format.get()?,
        KeyFormat::Any | KeyFormat::Regex(_)
    );
    match file.background.value()? {
        None => Some(!has_scope),
        Some(true) => {
            if is_used && has_scope && !is_unique {
                let message = "the upstream is asked without the client's scope then; where two clients use one key, \
                               one of them gets the other's answer, unless `headers` and `path` tell them apart; have \
                               keys that are unique (key_format = \"uuid\"), or leave it out";
                let other = route.key_format.written();
                findings.warn(&file.background.place, message.to_owned(), other.as_slice());
            }
            Some(true)
        }
        Some(false) => Some(false),
    }
}
