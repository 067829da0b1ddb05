//! Holds the gateway to the verdicts, before an upstream that says what it has understood.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::read::{Expected, Message, Outcome, corpus};
use crate::support::{
    Act, Answer, Authority, Connection, Gateway, PATIENCE, Received, Request, Setup, ToyUpstream,
};

/// What an upstream has understood, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    pub message: Expected,
    pub key: Option<String>,
    /// Its place among all that it has received, from 1.
    pub number: u64,
}

/// What came of sending the corpus before one upstream.
#[derive(Default)]
pub struct Report {
    pub faults: Vec<String>,
    /// How many were understood.
    pub understood: u64,
    /// Those that the upstream itself has refused, by its own strictness.
    pub refused_upstream: Vec<String>,
}

/// An upstream that answers with what it understood.
pub fn recorder() -> ToyUpstream {
    let upstream = ToyUpstream::start();
    upstream.always(|request| {
        let body = echo(request).to_string();
        Act::respond(200, &[("Content-Type", "application/json")], body)
    });
    upstream
}

fn echo(request: &Received) -> Value {
    let body: String = request.body.iter().copied().map(char::from).collect();
    let hosts = request.headers.all("Host").join(", ");
    let keys = request.headers.all("Idempotency-Key").join(", ");
    json!({
        "method": request.method,
        "target": request.target,
        "host": hosts,
        "body": body,
        "key": (!keys.is_empty()).then_some(keys),
        "n": request.number,
    })
}

/// A gateway with two protected routes, which rely on different headers, before this upstream.
pub async fn gateway(url: &str) -> Gateway {
    setup(url).start().await
}

fn setup(url: &str) -> Setup {
    Setup::payments_at(url)
        .upstream("idle_timeout = \"1s\"")
        .another_route(
            "name = \"orders\"\npath = \"/v1/orders\"\nmethods = [\"POST\"]\n\
             key = [\"header:X-Order-Key\"]\nscope = [\"header:X-Tenant\"]\n\
             fingerprint = { headers = [\"X-Amount\"] }",
        )
        .rest_passes()
}

#[tokio::test]
async fn every_message_is_forwarded_as_it_says_or_refused_by_its_rule() {
    let upstream = recorder();
    let gateway = gateway(&upstream.url()).await;
    let messages = corpus("messages");
    assert!(messages.len() > 600, "{}", messages.len());
    let report = hold(&gateway, &messages).await;
    println!(
        "{} messages, {} understood",
        messages.len(),
        report.understood
    );
    assert!(report.faults.is_empty(), "{}", report.faults.join("\n"));
    assert!(
        report.refused_upstream.is_empty(),
        "{:?}",
        report.refused_upstream
    );
    for request in upstream.requests() {
        is_freshly_framed(&request);
    }
    assert_eq!(upstream.charges() as u64, report.understood);
}

#[tokio::test]
async fn the_same_holds_under_tls() {
    let upstream = recorder();
    let authority = Arc::new(Authority::new());
    let text = format!("{}{}", setup(&upstream.url()).toml(), authority.listener());
    let mut gateway = Gateway::start(&text).await;
    gateway.address = authority.passage(gateway.address).await;
    let messages = corpus("messages");
    let report = hold(&gateway, &messages).await;
    assert!(report.faults.is_empty(), "{}", report.faults.join("\n"));
    assert!(report.understood > 200, "{}", report.understood);
    assert_eq!(upstream.charges() as u64, report.understood);
}

/// Whatever the client has written, the upstream sees one host and one way to the body's end.
pub fn is_freshly_framed(request: &Received) {
    let count = |name| request.headers.all(name).len();
    assert_eq!(count("Host"), 1, "{request:?}");
    assert!(
        count("Content-Length") + count("Transfer-Encoding") <= 1,
        "{request:?}"
    );
    if let Some(length) = request.header("Content-Length") {
        assert_eq!(length, request.body.len().to_string(), "{request:?}");
    }
    assert!(count("Idempotency-Key") <= 1, "{request:?}");
    let coding = request.header("Transfer-Encoding");
    assert!(matches!(coding, None | Some("chunked")), "{request:?}");
}

/// Sends every message on a connection of its own, and compares what comes back.
pub async fn hold(gateway: &Gateway, messages: &[Message]) -> Report {
    let mut report = Report::default();
    for message in messages {
        if let Err(fault) = sent(gateway, message, &mut report).await {
            report.faults.push(format!("{}: {fault}", message.place));
        }
    }
    report
}

async fn sent(gateway: &Gateway, message: &Message, report: &mut Report) -> Result<(), String> {
    let mut connection = gateway.connect().await;
    connection.write(&message.bytes).await;
    for outcome in &message.outcomes {
        match outcome {
            Outcome::Waits => return Ok(()),
            Outcome::Forwarded(expected) => {
                let answer = heard(&mut connection).await?;
                report.forwarded(&answer, expected, message)?;
            }
            Outcome::Refused(sentence) | Outcome::Broken(sentence) => {
                is_problem(
                    &heard(&mut connection).await?,
                    400,
                    "bad-request",
                    Some(sentence),
                )?;
            }
            Outcome::Answered(status, slug) => {
                let answer = heard(&mut connection).await?;
                let slug = slug.as_deref().unwrap_or_default();
                is_problem(&answer, *status, slug, None)?;
            }
            Outcome::Reset => return Err("HTTP/1 has no streams".to_owned()),
        }
    }
    // What comes next on the connection is this request and nothing else, if anything comes.
    let probe = Request::get("/probe").header("Host", "a.example");
    match connection.try_send(&probe).await {
        None => Ok(()),
        Some(answer) => {
            let expected = Expected {
                method: "GET".to_owned(),
                target: "/probe".to_owned(),
                host: "a.example".to_owned(),
                body: String::new(),
            };
            report.forwarded(&answer, &expected, message)
        }
    }
}

/// An answer, or none because it takes far too long.
async fn heard(connection: &mut Connection) -> Result<Answer, String> {
    match timeout(PATIENCE, connection.try_answer()).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err("no answer, and the connection closed".to_owned()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// An answer that the gateway made itself, with this end of `type`.
pub fn is_problem(
    answer: &Answer,
    status: u16,
    slug: &str,
    detail: Option<&str>,
) -> Result<(), String> {
    let is_problem = answer.header("Content-Type") == Some("application/problem+json");
    if answer.status != status || !is_problem {
        return Err(format!("expected {status} {slug}: {answer:?}"));
    }
    let problem = answer.json();
    let has_slug = problem["type"]
        .as_str()
        .is_some_and(|name| name.ends_with(slug));
    if !has_slug || detail.is_some_and(|detail| problem["detail"] != detail) {
        return Err(format!("expected {slug} {detail:?}: {problem}"));
    }
    Ok(())
}

impl Report {
    /// An answer of the upstream's.
    pub fn forwarded(
        &mut self,
        answer: &Answer,
        expected: &Expected,
        message: &Message,
    ) -> Result<(), String> {
        let is_problem = answer.header("Content-Type") == Some("application/problem+json");
        if answer.status >= 400 && !is_problem {
            self.refused_upstream
                .push(format!("{} {}", answer.status, message.place));
            return Ok(());
        }
        if answer.status != 200 || is_problem {
            return Err(format!("expected {expected:?}: {answer:?}"));
        }
        let found = understood(&answer.json());
        self.understood += 1;
        if found.number != self.understood {
            let message = format!(
                "{} reached the upstream, as {}",
                found.number, self.understood
            );
            self.understood = found.number;
            return Err(message);
        }
        let key = expected.target.ends_with("/v1/payments") && expected.target.starts_with("/v1/");
        let key = key.then(|| format!("k{}", message.number));
        let found_key = found.key.as_deref().map(|key| key.trim().trim_matches('"'));
        let found_key = found_key.map(|key| key.split(';').next().unwrap_or_default());
        if key.is_some() && key.as_deref() != found_key {
            return Err(format!("expected the key {key:?}: {found_key:?}"));
        }
        // ASGI does not tell an empty query from none.
        let (mut found, mut expected) = (found.message, expected.clone());
        for message in [&mut found, &mut expected] {
            message
                .target
                .truncate(message.target.trim_end_matches('?').len());
        }
        match found == expected {
            true => Ok(()),
            false => Err(format!("expected {expected:?}: {found:?}")),
        }
    }
}

fn understood(echo: &Value) -> Understood {
    let text = |name: &str| echo[name].as_str().unwrap_or_default().to_owned();
    Understood {
        message: Expected {
            method: text("method"),
            target: text("target"),
            host: text("host"),
            body: text("body"),
        },
        key: echo["key"].as_str().map(str::to_owned),
        number: echo["n"].as_u64().unwrap_or_default(),
    }
}
