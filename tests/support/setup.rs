//! Configurations for tests, from parts.

use std::path::Path;
use std::time::Duration;

use super::gateway::Gateway;
use super::upstream::ToyUpstream;

/// A configuration under construction. Listeners are added by [`Gateway::start`].
#[derive(Clone, Debug)]
pub struct Setup {
    top: String,
    store: String,
    limits: String,
    upstream: String,
    endpoints: String,
    payments: String,
    other_routes: String,
}

impl Setup {
    /// One protected route, `POST /v1/payments` named `pay`, before this upstream, with the store in memory.
    pub fn payments(upstream: &ToyUpstream) -> Self {
        Self::payments_at(&upstream.url())
    }

    /// The same before this endpoint.
    pub fn payments_at(url: &str) -> Self {
        Self {
            top: String::new(),
            store: "url = \"memory:\"\n".to_owned(),
            limits: String::new(),
            upstream: String::new(),
            endpoints: format!("{url:?}"),
            payments: String::new(),
            other_routes: String::new(),
        }
    }

    /// A line before all tables.
    pub fn top(mut self, line: &str) -> Self {
        self.top.push_str(&format!("{line}\n"));
        self
    }

    /// Keeps records in a file, so that they outlive the process.
    pub fn embedded(mut self) -> Self {
        // The gateway is started in the directory that the file is to be in.
        self.store = "url = \"embedded:gate.db\"\n".to_owned();
        self
    }

    /// Keeps records on a server, under the id key in this file.
    pub fn shared(mut self, url: &str, id_key: &Path) -> Self {
        self.store = format!(
            "url = {url:?}\nnamespace = \"payments-test\"\nid_key = {{ file = {id_key:?} }}\n"
        );
        self
    }

    /// A line of `[store]`.
    pub fn store(mut self, line: &str) -> Self {
        self.store.push_str(&format!("{line}\n"));
        self
    }

    /// A line of `[limits]`.
    pub fn limits(mut self, line: &str) -> Self {
        self.limits.push_str(&format!("{line}\n"));
        self
    }

    /// A line of the upstream's table.
    pub fn upstream(mut self, line: &str) -> Self {
        self.upstream.push_str(&format!("{line}\n"));
        self
    }

    /// One more endpoint of the upstream.
    pub fn endpoint(mut self, url: &str) -> Self {
        self.endpoints.push_str(&format!(", {url:?}"));
        self
    }

    /// A line of the route `pay`.
    pub fn route(mut self, line: &str) -> Self {
        self.payments.push_str(&format!("{line}\n"));
        self
    }

    /// Another route after `pay`, with all its lines but `upstream`.
    pub fn another_route(mut self, lines: &str) -> Self {
        self.other_routes
            .push_str(&format!("[[routes]]\nupstream = \"toy\"\n{lines}\n"));
        self
    }

    /// Everything else passes.
    pub fn rest_passes(self) -> Self {
        self.another_route("name = \"rest\"\npath = \"/*\"\nmode = \"pass\"")
    }

    /// Operators may see and settle records: whoever shows the token in this file. Their words go to `audit.log`.
    pub fn operators(mut self, token: &Path) -> Self {
        self.other_routes.push_str(&format!(
            "\n[admin]\naddress = \"127.0.0.1:9090\"\ntoken = {{ file = {token:?} }}\naudit_log = \"audit.log\"\n"
        ));
        self
    }

    /// The file, without listeners and admin.
    pub fn toml(&self) -> String {
        let Self {
            top,
            store,
            limits,
            upstream,
            endpoints,
            payments,
            other_routes,
        } = self;
        // A path in the lines of a route takes the place of the usual one.
        let has = |name: &str| payments.lines().any(|line| line.starts_with(name));
        let path = if has("path = ") {
            ""
        } else {
            "path = \"/v1/payments\"\n"
        };
        let methods = if has("methods = ") {
            ""
        } else {
            "methods = [\"POST\"]\n"
        };
        let patience = if store.contains("embedded:") && !store.contains("timeout") {
            format!("timeout = \"{}ms\"\n", self.patience().as_millis())
        } else {
            String::new()
        };
        format!(
            "{top}[store]\n{store}{patience}[limits]\n{limits}\
             [upstreams.toy]\nendpoints = [{endpoints}]\n{upstream}\
             [defaults]\nscope = [\"header:Authorization\"]\n\
             [[routes]]\nname = \"pay\"\nupstream = \"toy\"\n{path}{methods}{payments}{other_routes}"
        )
    }

    /// What a store in a file may take where the test is not about that: a disk that others use, too, may be busy for
    /// seconds. No more than a claim's lease lets it.
    fn patience(&self) -> Duration {
        const BUSY_DISK: Duration = Duration::from_secs(5);
        let leases = self.payments.lines().filter_map(|line| {
            let seconds = line.strip_prefix("lease = \"")?.strip_suffix("s\"")?;
            seconds.parse().ok().map(Duration::from_secs)
        });
        leases.fold(BUSY_DISK, |patience, lease| patience.min(lease / 2))
    }

    /// Starts a gateway with it.
    pub async fn start(&self) -> Gateway {
        Gateway::start(&self.toml()).await
    }
}
