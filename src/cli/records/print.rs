//! Records as people read them, and what they may do next.

use std::fmt::Write;

use http::StatusCode;
use serde_json::Value as Json;

/// What a column shows of a record.
type Cell = fn(&Json) -> String;

/// What a table shows of each unresolved record.
const COLUMNS: [(&str, Cell); 7] = [
    ("KEY_REF", |record| text(&record["key_ref"])),
    ("ROUTE", |record| match record["route"].as_str() {
        Some(route) => route.to_owned(),
        None => text(&record["route_id"]),
    }),
    ("UNKNOWN FOR", |record| age(record["age_seconds"].as_u64())),
    ("CAUSE", |record| text(&record["cause"])),
    ("KEY", |record| text(&record["reference"]["key"])),
    ("SCOPE", |record| text(&record["reference"]["scope"])),
    ("REQUEST", |record| {
        let reference = &record["reference"];
        format!(
            "{} {}",
            text(&reference["method"]),
            text(&reference["path"])
        )
    }),
];

/// A page of the list.
pub fn page(page: &Json, out: &mut String) {
    let records = page["records"].as_array().map_or(&[][..], Vec::as_slice);
    if records.is_empty() {
        out.push_str("no outcome is unknown now; requests under way are not listed, nor those of a gateway that crashed until their \
             lease is over\n");
    } else {
        table(records, out);
        out.push_str("\nnext: oncegate records show KEY_REF … says what is known of one\n");
    }
    if let Some(cursor) = page["next"].as_str() {
        let _ = writeln!(out, "there are more: --cursor {cursor}");
    }
}

fn table(records: &[Json], out: &mut String) {
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| COLUMNS.iter().map(|(_, cell)| cell(record)).collect())
        .collect();
    let head: Vec<String> = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]);
        cells
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for row in [&head].into_iter().chain(&rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

/// One record.
pub fn record(record: &Json, out: &mut String) {
    let reference = &record["reference"];
    let line = |out: &mut String, name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<14}{value}");
        }
    };
    line(out, "state", state(record));
    line(out, "key", text(&reference["key"]));
    line(out, "scope", text(&reference["scope"]));
    line(
        out,
        "request",
        format!(
            "{} {}",
            text(&reference["method"]),
            text(&reference["path"])
        ),
    );
    line(
        out,
        "route",
        match record["route"].as_str() {
            Some(route) => route.to_owned(),
            None => format!("{} (not configured)", text(&record["route_id"])),
        },
    );
    line(out, "claimed", text(&record["claimed_at"]));
    line(
        out,
        "sent",
        match (record["written_at"].as_str(), record["state"].as_str()) {
            (Some(at), _) => at.to_owned(),
            (None, Some("unknown")) => "perhaps: nobody saw whether a byte was written".to_owned(),
            _ => String::new(),
        },
    );
    line(out, "answer seen", seen(record));
    line(out, "unknown since", text(&record["unknown_since"]));
    line(out, "completed", text(&record["completed_at"]));
    line(out, "attempts", text(&record["attempts"]));
    if let Some(prior) = record["prior"].as_object() {
        let prior = Json::Object(prior.clone());
        let text = format!("{}, since {}", state(&prior), text(&prior["unknown_since"]));
        line(out, "before that", text);
    }
    response(record, out);
    line(out, "kept until", text(&record["kept_until"]));
    line(out, "fingerprint", text(&record["fingerprint"]));
    line(out, "key_ref", text(&record["key_ref"]));
    line(out, "id", text(&record["id"]));
    line(out, "version", text(&record["version"]));
    if let Some(body) = record["response"]["body"].as_str() {
        let _ = writeln!(out, "\n{}", plain(body, &['\n', '\t']));
    } else if let Some(body) = record["response"]["body_base64"].as_str() {
        let _ = writeln!(out, "\n{body}  (base64)");
    }
    next(record, out);
}

fn state(record: &Json) -> String {
    match record["state"].as_str() {
        Some("unknown") => format!("unknown ({})", cause(record["cause"].as_str())),
        Some("claimed") => "claimed: a gateway is executing it".to_owned(),
        Some("completed") if record["resolved_by_hand"] == true => {
            "completed (settled by hand or by a probe)".to_owned()
        }
        Some("expired") => "expired: its answer is gone, and its key is refused".to_owned(),
        Some(state) => state.to_owned(),
        None => String::new(),
    }
}

/// In words.
fn cause(cause: Option<&str>) -> String {
    let words = match cause {
        Some("lease_lapsed") => "the gateway that executed it went silent",
        Some("timeout") => "the upstream did not answer in time",
        Some("connection_lost") => "the connection broke before an answer",
        Some("truncated") => "the answer broke off",
        Some("status") => "the upstream's status says nothing about it",
        Some("drained") => "the gateway was stopped before the answer",
        cause => return cause.unwrap_or_default().to_owned(),
    };
    words.to_owned()
}

fn seen(record: &Json) -> String {
    let bytes = record["bytes_seen"].as_u64();
    match (record["status_seen"].as_u64(), bytes) {
        (Some(status), bytes) => format!("status {status}, {} bytes", bytes.unwrap_or(0)),
        (None, Some(_)) => "none".to_owned(),
        (None, None) => String::new(),
    }
}

fn response(record: &Json, out: &mut String) {
    let response = &record["response"];
    if let Some(status) = response["status"].as_u64() {
        let _ = writeln!(
            out,
            "{:<14}{status}, {} bytes",
            "response",
            text(&response["body_bytes"])
        );
        for (part, label) in [("headers", ""), ("trailers", "trailers")] {
            for (at, line) in response[part].as_array().into_iter().flatten().enumerate() {
                let label = if at == 0 { label } else { "" };
                let (name, value) = (text(&line[0]), text(&line[1]));
                let _ = writeln!(out, "{label:<14}  {name}: {value}");
            }
        }
        let trace = &response["trace"];
        if !trace.is_null() {
            let (id, span) = (text(&trace["trace_id"]), text(&trace["span_id"]));
            let _ = writeln!(out, "{:<14}{id}, span {span}", "trace");
        }
    } else if let Some(reason) = record["response_not_stored"].as_str() {
        let _ = writeln!(out, "{:<14}not stored ({reason})", "response");
    }
}

/// What may be done with it.
fn next(record: &Json, out: &mut String) {
    let id = text(&record["key_ref"]);
    // It is about what is shown here: a record of this name may be another attempt's by the time somebody says so.
    let version = text(&record["version"]);
    let _ = match record["state"].as_str() {
        Some("unknown") => writeln!(
            out,
            "\nAsk the upstream whether it has this operation, by its key. Then say so, with the same --config:\n  \
             it has:      oncegate records resolve {id} --version {version} --status 201 --header 'Content-Type: application/json' \
             --body @answer.json --reason '…'\n               \
             a call of gRPC with --status 200 --header 'Content-Type: application/grpc' --trailer 'grpc-status: 0' (README, \"gRPC\")\n  \
             it has not:  oncegate records release {id} --version {version} --reason '…'   (a retry is then executed)"
        ),
        Some("claimed") => writeln!(
            out,
            "\nNothing to do: look again when it is done. A gateway that has crashed loses its claim at the end of the lease."
        ),
        _ => Ok(()),
    };
}

/// That a record is settled.
pub fn settled(action: &str, done: &Json, out: &mut String) {
    let words = match action {
        "resolve" => "resolved: retries get this response from now on",
        "release" => "released: the key is free, and a retry is executed",
        _ => "deleted: nothing is known of this key any more, and a retry is executed",
    };
    let _ = writeln!(out, "{words}");
    if let Some(warning) = done["warning"].as_str() {
        let _ = writeln!(out, "warning: {warning}");
    }
}

/// Why nothing was done.
pub fn refusal(status: StatusCode, problem: &Json) -> String {
    let mut said = match problem["title"].as_str() {
        Some(title) => title.to_owned(),
        None => format!("the admin API answers {status}"),
    };
    if let Some(detail) = problem["detail"].as_str() {
        let _ = write!(said, ": {detail}");
    }
    let _ = match status {
        StatusCode::UNAUTHORIZED => {
            write!(
                said,
                " The token has to be the one that the gateway was started with."
            )
        }
        StatusCode::CONFLICT => {
            let record = &problem["record"];
            let (now, version) = (state(record), text(&record["version"]));
            match now.is_empty() {
                true => Ok(()),
                false => write!(said, "\nit is now: {now}; version {version}"),
            }
        }
        _ => Ok(()),
    };
    said
}

fn text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => plain(text, &[]),
        value => value.to_string(),
    }
}

/// Without control characters but these: what a client or an upstream sent might speak to a terminal.
fn plain(text: &str, kept: &[char]) -> String {
    let letter = |letter: char| match letter.is_control() && !kept.contains(&letter) {
        true => '\u{fffd}',
        false => letter,
    };
    text.chars().map(letter).collect()
}

fn age(seconds: Option<u64>) -> String {
    match seconds {
        None => String::new(),
        Some(seconds @ 0..60) => format!("{seconds}s"),
        Some(seconds @ 60..3600) => format!("{}m {}s", seconds / 60, seconds % 60),
        Some(seconds @ 3600..86_400) => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        Some(seconds) => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_sent_speaks_to_a_terminal() {
        assert_eq!(text(&"a\u{1b}[2Jb\nc".into()), "a\u{fffd}[2Jb\u{fffd}c");
        let mut out = String::new();
        let sent = serde_json::json!({ "response": { "body": "a\n\tb\u{1b}[2J\u{9b}c" } });
        record(&sent, &mut out);
        assert!(out.contains("\na\n\tb\u{fffd}[2J\u{fffd}c\n"), "{out}");
    }
}
