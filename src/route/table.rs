//! The table of routes: the first one that takes a request has it.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;

use super::forms;
use super::policy::{Mode, Policy, Route};

/// Routes in order of precedence.
#[derive(Debug)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    /// Whether any route asks for a host.
    by_host: bool,
}

/// Which route has a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'t> {
    /// The first one that takes it.
    Route {
        /// Its place in [`Table::routes`].
        index: usize,
        /// The route.
        route: &'t Arc<Route>,
        /// What it asks of this request, or would ask where the route only observes. `None`: the request passes
        /// untouched, because the route says so or because its method is a safe one that the route does not name.
        policy: Option<&'t Policy>,
    },
    /// None; answered with 404.
    NotFound,
    /// The upstream might read the path as another route's; answered with 400.
    Ambiguous,
}

impl Table {
    /// A table of these routes, the first ones first.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        let by_host = routes.iter().any(|route| route.matcher.host.is_some());
        Self {
            routes: routes.into_iter().map(Arc::new).collect(),
            by_host,
        }
    }

    /// The routes, in order of precedence.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Finds the route of a request. `host` may bear a port, and `path` is as received, without query.
    ///
    /// Nothing is allocated unless the path has something to normalise.
    #[must_use]
    pub fn find(&self, method: &Method, host: Option<&str>, path: &str) -> Found<'_> {
        let host = host.filter(|_| self.by_host).map(bare_host);
        let host = host.as_deref();
        let path = path.as_bytes();
        let Some(index) = self.first(method, host, path) else {
            return Found::NotFound;
        };
        if forms::has_other_readings(path) && !self.keeps(index, method, host, path) {
            return Found::Ambiguous;
        }
        let route = &self.routes[index];
        let policy = match &route.mode {
            Mode::Enforce(policy) | Mode::Observe(policy) if route.matcher.protects(method) => {
                Some(&**policy)
            }
            Mode::Enforce(_) | Mode::Observe(_) | Mode::Pass => None,
        };
        Found::Route {
            index,
            route,
            policy,
        }
    }

    /// Whether the request stays with its route however its path is read. Without its trailing slash it may also
    /// belong to nobody: `/docs/` may be routed where `/docs` is not.
    fn keeps(&self, index: usize, method: &Method, host: Option<&str>, path: &[u8]) -> bool {
        forms::all_readings(path, |reading| {
            let bare = reading.strip_suffix(b"/").filter(|bare| !bare.is_empty());
            let bare = bare.and_then(|bare| self.first(method, host, bare));
            self.first(method, host, reading) == Some(index)
                && bare.is_none_or(|bare| bare == index)
        })
    }

    fn first(&self, method: &Method, host: Option<&str>, path: &[u8]) -> Option<usize> {
        self.routes
            .iter()
            .position(|route| route.matcher.takes(method, host, path))
    }
}

/// A host in lower case, without port and without the dot of a fully qualified name.
fn bare_host(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::{BodyRule, FingerprintRules, KeyFormat};
    use crate::protocol::{Outcomes, StatusSet};
    use crate::route::{AfterExpiry, KeyAge, Matcher, OnStoreDown, OnUnknown, RetentionPolicy};

    /// A policy of which nothing matters.
    pub fn policy() -> Policy {
        let second = Duration::from_secs(1);
        Policy {
            key: Vec::new(),
            key_required: true,
            key_format: KeyFormat::Any,
            key_age: KeyAge::Ignore,
            scope: Vec::new(),
            scope_required: true,
            challenge: "Bearer".to_owned(),
            fingerprint: FingerprintRules {
                body: BodyRule::Bytes,
                query: true,
                host: true,
                headers: Vec::new(),
                ignore: Vec::new(),
            },
            wait: second,
            lease: second,
            late_response: second,
            record_timeout: second,
            on_unknown: OnUnknown::Hold,
            unknown_status: 409,
            outcomes: Outcomes {
                release: StatusSet::default(),
                unknown: StatusSet::default(),
            },
            retention: RetentionPolicy {
                success: second,
                failure: second,
                unknown: second,
            },
            after_expiry: AfterExpiry::Execute,
            on_store_down: OnStoreDown::Reject,
            forward_key: true,
            max_request_body: 1,
            max_response_body: 1,
        }
    }

    fn route(name: &str, methods: &[Method], host: Option<&str>, path: &str, mode: Mode) -> Route {
        Route {
            name: name.to_owned(),
            id: name.into(),
            matcher: Matcher {
                methods: methods.to_vec(),
                host: host.map(str::to_owned),
                path: path.parse().unwrap(),
            },
            upstream: "upstream".to_owned(),
            response_timeout: Duration::from_secs(1),
            cors: None,
            mode,
        }
    }

    fn protected(name: &str, methods: &[Method], path: &str) -> Route {
        route(name, methods, None, path, Mode::Enforce(Box::new(policy())))
    }

    fn pass(name: &str, path: &str) -> Route {
        route(name, &[], None, path, Mode::Pass)
    }

    /// The name of the route, with `+` where the request is protected; or what else was found.
    fn found(table: &Table, method: &Method, host: Option<&str>, path: &str) -> String {
        match table.find(method, host, path) {
            Found::Route {
                index,
                route,
                policy,
            } => {
                assert_eq!(table.routes()[index].name, route.name);
                format!("{}{}", route.name, if policy.is_some() { "+" } else { "" })
            }
            Found::NotFound => "404".to_owned(),
            Found::Ambiguous => "400".to_owned(),
        }
    }

    fn payments() -> Table {
        Table::new(vec![
            protected("create", &[Method::POST], "/v1/payments"),
            protected("refund", &[], "/v1/payments/{id}/refund"),
            pass("rest", "/v1/*"),
        ])
    }

    #[test]
    fn the_first_route_that_takes_a_request_has_it_and_none_falls_through() {
        let table = payments();
        for (method, path, expected) in [
            (Method::POST, "/v1/payments", "create+"),
            (Method::GET, "/v1/payments", "rest"),
            (Method::POST, "/v1/payments/7/refund", "refund+"),
            (Method::DELETE, "/v1/payments/7/refund", "refund+"),
            (Method::POST, "/v1/payments/7", "rest"),
            (Method::POST, "/v2/payments", "404"),
            (Method::OPTIONS, "*", "404"),
        ] {
            assert_eq!(
                found(&table, &method, None, path),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn safe_methods_pass_a_protected_route_unless_it_names_them() {
        let table = Table::new(vec![
            protected("named", &[Method::GET], "/named"),
            protected("all", &[], "/*"),
        ]);
        assert_eq!(found(&table, &Method::GET, None, "/named"), "named+");
        for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE] {
            assert_eq!(found(&table, &method, None, "/x"), "all", "{method}");
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(found(&table, &method, None, "/x"), "all+", "{method}");
        }
    }

    #[test]
    fn a_host_is_compared_without_port_case_and_last_dot() {
        let table = Table::new(vec![
            route("api", &[], Some("api.example.com"), "/*", Mode::Pass),
            route("six", &[], Some("[::1]"), "/*", Mode::Pass),
        ]);
        for host in [
            "api.example.com",
            "API.Example.com:8080",
            "api.example.com.",
            "api.example.com.:80",
        ] {
            assert_eq!(
                found(&table, &Method::GET, Some(host), "/"),
                "api",
                "{host}"
            );
        }
        assert_eq!(found(&table, &Method::GET, Some("[::1]:8080"), "/"), "six");
        assert_eq!(found(&table, &Method::GET, Some("[::1]"), "/"), "six");
        for host in [
            None,
            Some("example.com"),
            Some("api.example.com.evil"),
            Some(""),
        ] {
            assert_eq!(found(&table, &Method::GET, host, "/"), "404", "{host:?}");
        }
    }

    #[test]
    fn a_path_that_an_upstream_may_read_as_another_routes_is_refused() {
        let table = payments();
        for path in [
            "/v1/payments/",
            "/v1//payments",
            "/v1/./payments",
            "/v1/x/../payments",
            "/v1/p%61yments",
            "/v1/p%2561yments",
            "/v1/x%2F..%2Fpayments",
            "/v1/payments;a=b",
            "/v1/x\\..\\payments",
            "/v1/payments%2F7%2Frefund",
            "/v1/x//../payments",
            // Out of everything that is routed.
            "/v1/../admin",
            "/v1/%2e%2e/admin",
        ] {
            assert_eq!(found(&table, &Method::POST, None, path), "400", "{path}");
        }
    }

    #[test]
    fn a_path_that_stays_with_its_route_however_it_is_read_goes_through() {
        let table = payments();
        for (path, expected) in [
            ("/v1/", "rest"),
            ("/v1/files/a%2Fb", "rest"),
            ("/v1/files//a/", "rest"),
            ("/v1/caf%C3%A9", "rest"),
            ("/v1/files/../other", "rest"),
            ("/v1/files/a;v=1", "rest"),
            ("/v1/100%", "rest"),
            ("/v1/payments/a%20b/refund", "refund+"),
        ] {
            assert_eq!(found(&table, &Method::POST, None, path), expected, "{path}");
        }
        // Reading a payment is nobody's but the last route's, in every spelling.
        assert_eq!(found(&table, &Method::GET, None, "/v1/payments/"), "rest");
    }

    #[test]
    fn what_no_route_takes_as_it_is_written_is_not_found() {
        let table = Table::new(vec![protected("create", &[Method::POST], "/v1/payments")]);
        assert_eq!(found(&table, &Method::POST, None, "/v1/payments/"), "404");
        assert_eq!(
            found(&table, &Method::POST, None, "/x/../v1/payments"),
            "404"
        );
    }

    /// What one careful server makes of a path: decoded, slashes merged, dots removed, no trailing slash.
    fn as_one_server_reads_it(path: &str) -> String {
        let decoded = percent_encoding::percent_decode_str(path)
            .decode_utf8_lossy()
            .into_owned();
        let mut kept: Vec<&str> = Vec::new();
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    kept.pop();
                }
                segment => kept.push(segment),
            }
        }
        format!("/{}", kept.join("/"))
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_protected_path_passes_unprotected(
            path in "/(v1|payments|x|\\.|\\.\\.|%2e|%2E%2e|%2f|/|pay%6Dents|7|refund){0,6}((/|%2F)(v1|payments|x|\\.\\.|\\.|7|refund|)){0,6}"
        ) {
            let table = Table::new(vec![
                protected("create", &[Method::POST], "/v1/payments"),
                protected("refund", &[Method::POST], "/v1/payments/{id}/refund"),
                pass("rest", "/*"),
            ]);
            let read = as_one_server_reads_it(&path);
            let plain = found(&table, &Method::POST, None, &read);
            let seen = found(&table, &Method::POST, None, &path);
            prop_assert!(seen == plain || seen == "400", "{path} is {seen}; read as {read} it is {plain}");
        }

        #[test]
        fn any_path_finds_something(path in "\\PC{0,40}") {
            let _ = found(&payments(), &Method::POST, Some(&path), &path);
        }

        #[test]
        fn a_path_with_nothing_to_normalise_is_never_ambiguous(path in "(/[a-z0-9_~-]{1,8}){1,6}") {
            prop_assert_ne!(found(&payments(), &Method::POST, None, &path), "400");
        }
    }
}
