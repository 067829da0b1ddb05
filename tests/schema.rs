//! `oncegate schema` as editors and checkers use it: taplo and check-jsonschema take what the gateway takes and
//! refuse what it refuses.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oncegate::config::Config;
use support::tool;

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

/// What may stand before it.
const GOOD: [&str; 11] = [
    "",
    "limits.replay_cache = 0",
    "limits.replay_cache = \"0\"",
    "drain_timeout = \"0s\"",
    "store = { url = \"memory:\", id_key = { env = \"CARGO_PKG_DESCRIPTION\" } }",
    "listeners = [{ address = \"[::1]:80\" }, {}]",
    "listeners = [{ address = \"unix:/run/a.sock\", mode = \"0600\", trusted_proxies = [\"unix:\"] }]",
    "listeners = [{ proxy_protocol = \"required\", trusted_proxies = [\"10.0.0.0/8\", \"::1\"] }]",
    "problem_base = \"https://docs.example.com/problems/\"",
    "defaults = { outcomes = { release = [\"4xx\"], unknown = [] }, unknown_status = 503 }",
    "defaults = { fingerprint = { body = \"json\", ignore = [\"/a\"] }, key_format = 'regex:[a-z]+' }",
];

/// What may not: with what is wrong.
const BAD: [(&str, &str); 19] = [
    ("an unknown setting at the top", "drain = \"1s\""),
    ("an unknown setting of a section", "limits.max = 1"),
    (
        "an unknown setting in a table of a table",
        "defaults.retention.forever = \"1d\"",
    ),
    ("a number for a duration", "drain_timeout = 30"),
    (
        "a text for a truth value",
        "defaults.key_required = \"yes\"",
    ),
    ("a text for a list", "defaults.methods = \"POST\""),
    (
        "a table for a list of tables",
        "listeners = { address = \"127.0.0.1:1\" }",
    ),
    (
        "permissions that are not octal",
        "listeners = [{ address = \"unix:/run/a.sock\", mode = \"0680\" }]",
    ),
    (
        "a truth value for a word",
        "listeners = [{ proxy_protocol = true }]",
    ),
    (
        "a certificate without its key",
        "listeners = [{ tls = { certificates = [{ cert = \"a.pem\" }] } }]",
    ),
    ("a duration without unit", "drain_timeout = \"30\""),
    (
        "a duration of zero where there has to be one",
        "defaults.lease = \"0s\"",
    ),
    ("a size in another unit", "limits.max_buffered = \"64MB\""),
    ("a count of zero", "limits.max_late = 0"),
    (
        "a word that is none of the choices",
        "defaults.mode = \"enforced\"",
    ),
    (
        "another status than 409 and 503",
        "defaults.unknown_status = 500",
    ),
    (
        "a status that is none",
        "defaults.outcomes.release = [\"604\"]",
    ),
    ("a scope of no kind", "defaults.scope = [\"Authorization\"]"),
    ("no secret's place", "store.id_key = \"hunter2\""),
];

/// Files in which something is missing that has to be there.
const LACKING: [(&str, &str); 4] = [
    (
        "no routes",
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n",
    ),
    (
        "no upstreams",
        "[[routes]]\nname = \"a\"\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n",
    ),
    (
        "no endpoints",
        "[upstreams.api]\n[[routes]]\nname = \"a\"\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n",
    ),
    (
        "no name",
        "[upstreams.api]\nendpoints = [\"http://127.0.0.1:9000\"]\n[[routes]]\npath = \"/*\"\nupstream = \"api\"\nscope = [\"none\"]\n",
    ),
];

/// A folder with the schema under the name that the `#:schema` line of the annotated example has.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let schema = Command::new(env!("CARGO_BIN_EXE_oncegate"))
            .arg("schema")
            .output()
            .expect("the binary");
        assert!(schema.status.success());
        std::fs::write(folder.path().join("oncegate.schema.json"), schema.stdout).expect("a file");
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn schema(&self) -> PathBuf {
        self.0.path().join("oncegate.schema.json")
    }

    fn taplo(&self, files: &[PathBuf]) -> Output {
        let schema = format!("file://{}", self.schema().display());
        Command::new(tool("taplo"))
            .args(["check", "--schema", &schema])
            .args(files)
            .current_dir(self.0.path())
            .output()
            .expect("taplo")
    }

    fn check_jsonschema(&self, files: &[PathBuf]) -> Output {
        Command::new(tool("check-jsonschema"))
            .arg("--schemafile")
            .arg(self.schema())
            .args(files)
            .output()
            .expect("check-jsonschema")
    }
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn both_tools_take_every_example_and_every_good_file() {
    let folder = Folder::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(examples).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a name")
                .to_owned();
            files.push(folder.write(&name, &std::fs::read_to_string(&path).expect("an example")));
        }
    }
    for (index, top) in GOOD.into_iter().enumerate() {
        let text = format!("{top}\n{SMALLEST}");
        if let Err(faults) = Config::parse(&text, "good") {
            panic!("{top}: {faults}");
        }
        files.push(folder.write(&format!("good-{index}.toml"), &text));
    }
    for output in [folder.taplo(&files), folder.check_jsonschema(&files)] {
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn both_tools_refuse_every_bad_file_as_the_gateway_does() {
    let folder = Folder::new();
    let bad = BAD.map(|(what, top)| (what, format!("{top}\n{SMALLEST}")));
    let lacking = LACKING.map(|(what, text)| (what, text.to_owned()));
    let mut files = Vec::new();
    for (index, (what, text)) in bad.into_iter().chain(lacking).enumerate() {
        assert!(
            Config::parse(&text, "bad").is_err(),
            "the gateway takes {what}"
        );
        files.push((what, folder.write(&format!("bad-{index:02}.toml"), &text)));
    }
    // Together: a Python for each takes its time. Each says every file that it refuses.
    let paths: Vec<PathBuf> = files.iter().map(|(_, path)| path.clone()).collect();
    for (tool, output) in [
        ("taplo", folder.taplo(&paths)),
        ("check-jsonschema", folder.check_jsonschema(&paths)),
    ] {
        assert!(!output.status.success(), "{tool}");
        let said = said(&output);
        for (what, path) in &files {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a name");
            assert!(said.contains(name), "{tool} takes {what}: {said}");
        }
    }
}

#[test]
fn an_editor_finds_the_schema_by_the_first_line_of_the_annotated_example() {
    let folder = Folder::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/oncegate.toml");
    let text = std::fs::read_to_string(example).expect("the example");
    assert!(text.starts_with("#:schema oncegate.schema.json\n"));
    let check = |name: &str, text: &str| {
        folder.write(name, text);
        Command::new(tool("taplo"))
            .args(["check", name])
            .current_dir(folder.0.path())
            .output()
            .expect("taplo")
    };
    let good = check("good.toml", &text);
    assert!(good.status.success(), "{}", said(&good));
    let bad = check(
        "bad.toml",
        &text.replace("mode = \"pass\"", "mode = \"bypass\""),
    );
    assert!(
        !bad.status.success() && said(&bad).contains("bypass"),
        "{}",
        said(&bad)
    );
}

#[test]
fn every_setting_is_described_and_no_section_takes_others() {
    fn look(path: &str, schema: &serde_json::Value, faults: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            if schema["additionalProperties"] != false {
                faults.push(format!("{path} takes any setting"));
            }
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                if property["description"].as_str().is_none_or(str::is_empty) {
                    faults.push(format!("{path} is not described"));
                }
                look(&path, property, faults);
            }
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                look(&format!("{path}[]"), &schema[inner], faults);
            }
        }
    }
    let mut faults = Vec::new();
    look("", &oncegate::config::schema(), &mut faults);
    assert!(faults.is_empty(), "{faults:#?}");
}
