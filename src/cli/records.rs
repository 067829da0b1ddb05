//! `oncegate records`: what operators do with records, through the admin API of a running gateway.

mod client;
mod print;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use self::client::Client;
use super::Failure;

/// The length of a record's id, and of the name that answers and logs call it by.
const ID_DIGITS: usize = 64;
const KEY_REF_DIGITS: usize = 12;

#[derive(Debug, Subcommand)]
pub(super) enum Records {
    /// Lists records whose outcome is not known, the oldest first.
    List {
        #[command(flatten)]
        at: At,
        /// Of this route only, by its name or id.
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Unknown for so long at least: `90s`, `30m`, `2h`, `7d`.
        #[arg(long, value_name = "SPAN", value_parser = span)]
        min_age: Option<Duration>,
        /// As many at most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
        /// Where the page before ended, as it said.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Shows one record: by id, by key_ref as long as it is unresolved, or by what its client sent.
    Show {
        #[command(flatten)]
        at: At,
        /// The id of the record, or the key_ref of an answer or a log line.
        #[arg(required_unless_present = "key", conflicts_with = "key")]
        id: Option<String>,
        /// The name or the id of the route that the request took.
        #[arg(long, value_name = "NAME", requires = "key")]
        route: Option<String>,
        /// The key that the client sent.
        #[arg(long, requires = "route")]
        key: Option<String>,
        /// What the client sent of the route's scope; once for each header of it, in their order.
        #[arg(
            long,
            value_name = "VALUE",
            requires = "key",
            allow_hyphen_values = true
        )]
        scope: Vec<String>,
        /// Also prints the body of the recorded response.
        #[arg(long)]
        body: bool,
    },
    /// It was executed: records the response that is replayed from now on.
    Resolve {
        #[command(flatten)]
        word: Word,
        /// The status of the response.
        #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(200..=599))]
        status: u16,
        /// A line of the response, `Name: value`; as often as there are lines.
        #[arg(long = "header", value_name = "LINE", value_parser = line)]
        headers: Vec<(String, String)>,
        /// A line after its body, as `grpc-status: 0` of a call; as often as there are lines.
        #[arg(long = "trailer", value_name = "LINE", value_parser = line)]
        trailers: Vec<(String, String)>,
        /// The body of the response: a text, or `@FILE`.
        #[arg(long, value_name = "TEXT|@FILE", default_value = "")]
        body: String,
    },
    /// It was not executed: frees the key, so that a retry is executed.
    Release {
        #[command(flatten)]
        word: Word,
    },
    /// Deletes a record whatever it says, a final outcome included: a retry of its request is executed again.
    Delete {
        #[command(flatten)]
        word: Word,
    },
}

/// Which gateway is asked.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("gateway").required(true).multiple(true).args(["config", "admin"]))]
pub(super) struct At {
    /// The configuration that the gateway runs with: says the admin address and the token.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "token_file"])]
    config: Option<PathBuf>,
    /// The admin address of the gateway, `http://HOST:PORT`.
    #[arg(long, value_name = "URL --token-file FILE", requires = "token_file")]
    admin: Option<String>,
    /// The file with the admin token.
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
    /// Prints JSON, for machines.
    #[arg(long)]
    json: bool,
}

/// What every word about a record needs.
#[derive(Debug, Args)]
pub(super) struct Word {
    #[command(flatten)]
    at: At,
    /// The id of the record, or its key_ref as long as it is unresolved.
    id: String,
    /// Why; it stands in the audit log.
    #[arg(long)]
    reason: String,
    /// Who says so; it stands in the audit log. The name of the user who runs this, or `uid N`, unless it is given.
    #[arg(long)]
    actor: Option<String>,
    /// The version that you saw. Without it, the record is taken as it is at this moment.
    #[arg(long)]
    version: Option<String>,
}

/// Runs one of the commands.
pub(super) async fn run(command: Records) -> Result<(), Failure> {
    match command {
        Records::List {
            at,
            route,
            min_age,
            limit,
            cursor,
        } => {
            let client = Client::at(&at)?;
            let mut query = vec![("limit", limit.to_string())];
            query.extend(route.map(|route| ("route", route)));
            query.extend(min_age.map(|age| ("min_age", age.as_secs().to_string())));
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page = client.get("", &query).await?;
            say(&at, &page, print::page)
        }
        Records::Show {
            at,
            id,
            route,
            key,
            scope,
            body,
        } => {
            let client = Client::at(&at)?;
            let record = match (id, route, key) {
                (Some(id), ..) => {
                    let id = full_id(&client, &id).await?;
                    let query = [("body", body.to_string())];
                    client.get(&format!("/{id}"), &query).await?
                }
                (None, route, key) => {
                    let sent = json!({ "route": route, "key": key, "scope": scope, "body": body });
                    client.post("/lookup", &sent).await?
                }
            };
            say(&at, &record, print::record)
        }
        Records::Resolve {
            word,
            status,
            headers,
            trailers,
            body,
        } => {
            let body = read_body(&body)?;
            let mut response = Map::new();
            response.insert("status".to_owned(), status.into());
            response.insert("headers".to_owned(), json!(headers));
            response.insert("trailers".to_owned(), json!(trailers));
            let encoded = base64::engine::general_purpose::STANDARD.encode(body);
            response.insert("body_base64".to_owned(), encoded.into());
            settle(word, "resolve", response).await
        }
        Records::Release { word } => settle(word, "release", Map::new()).await,
        Records::Delete { word } => settle(word, "delete", Map::new()).await,
    }
}

async fn settle(word: Word, action: &str, mut said: Map<String, Json>) -> Result<(), Failure> {
    let client = Client::at(&word.at)?;
    let id = full_id(&client, &word.id).await?;
    let version = match word.version {
        Some(version) => version,
        None => {
            let record = client.get(&format!("/{id}"), &[]).await?;
            record["version"].as_str().unwrap_or_default().to_owned()
        }
    };
    said.insert("version".to_owned(), version.into());
    said.insert("actor".to_owned(), word.actor.unwrap_or_else(user).into());
    said.insert("reason".to_owned(), word.reason.into());
    let done = client
        .post(&format!("/{id}/{action}"), &Json::Object(said))
        .await?;
    say(&word.at, &done, |done, out| {
        print::settled(action, done, out);
    })
}

fn user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].map(std::env::var);
    let mut named = named.into_iter().flatten().filter(|name| !name.is_empty());
    let number = || format!("uid {}", rustix::process::getuid().as_raw());
    named.next().unwrap_or_else(number)
}

/// The id, where a key_ref was given instead.
async fn full_id(client: &Client, id: &str) -> Result<String, Failure> {
    let is_hex = id.bytes().all(|digit| digit.is_ascii_hexdigit());
    match id.len() {
        ID_DIGITS if is_hex => Ok(id.to_ascii_lowercase()),
        KEY_REF_DIGITS if is_hex => {
            let known = json!({ "key_ref": id.to_ascii_lowercase() });
            let record = client.post("/lookup", &known).await?;
            Ok(record["id"].as_str().unwrap_or_default().to_owned())
        }
        _ => Err(Failure::Records(format!(
            "{id:?} is neither a record's id ({ID_DIGITS} hexadecimal digits) nor a key_ref ({KEY_REF_DIGITS}); \
             to look one up by what its client sent: records show --route NAME --key KEY --scope VALUE"
        ))),
    }
}

fn read_body(body: &str) -> Result<Vec<u8>, Failure> {
    match body.strip_prefix('@') {
        None => Ok(body.as_bytes().to_vec()),
        Some(path) => std::fs::read(path)
            .map_err(|error| Failure::Records(format!("the body {path} cannot be read: {error}"))),
    }
}

fn say(at: &At, answer: &Json, print: impl FnOnce(&Json, &mut String)) -> Result<(), Failure> {
    let mut text = String::new();
    match at.json {
        true => text = format!("{answer:#}\n"),
        false => print(answer, &mut text),
    }
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "write `90s`, `30m`, `2h` or `7d`".to_owned();
    let (digits, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

fn line(line: &str) -> Result<(String, String), String> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| "write `Name: value`".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
