//! What a configuration file may say, and what is said about one that is wrong.

mod any_text;
mod conflicts;
mod cors;
mod effective;
mod faults;
mod hints;
mod key_age;
mod listeners;
mod lowering;
mod profile;
mod routes;
mod secrets;
mod syntax;

use std::path::Path;

use oncegate::config::{Config, Loaded};
use oncegate::route::{Mode, Policy, Route};

/// The smallest configuration, to which others add.
const SMALLEST: &str = r#"
[upstreams.api]
endpoints = ["http://127.0.0.1:9000"]

[[routes]]
name = "all"
path = "/*"
upstream = "api"
scope = ["none"]
"#;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    std::fs::read_to_string(path).expect("an example")
}

fn parse(text: &str) -> Loaded {
    Config::parse(text, "oncegate.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(text: &str) -> String {
    match Config::parse(text, "f") {
        Ok(_) => panic!("nothing is wrong with: {text}"),
        Err(faults) => faults.to_string(),
    }
}

/// What is wrong with the smallest configuration and this before it; lines count from the added text.
fn faults_with(top: &str) -> String {
    faults(&format!("{top}{SMALLEST}"))
}

/// The same with this in its route, which begins in line 2.
fn faults_in_route(settings: &str) -> String {
    let route = "name = \"all\"\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n";
    let upstream = "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n";
    let names: Vec<&str> = settings
        .lines()
        .filter_map(|line| line.split(" =").next())
        .collect();
    let kept: String = route
        .lines()
        .filter(|line| {
            !names
                .iter()
                .any(|name| line.starts_with(&format!("{name} =")))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    faults(&format!("[[routes]]\n{settings}\n{kept}{upstream}"))
}

fn policy(route: &Route) -> &Policy {
    match &route.mode {
        Mode::Enforce(policy) | Mode::Observe(policy) => policy,
        Mode::Pass => panic!("{} is not protected", route.name),
    }
}
