//! Which route takes a request, and what that route asks of it.
//!
//! Pure: it is given methods, hosts and paths, and knows no socket, no clock and no configuration file. Reading
//! order: [`Table`], then [`PathPattern`], then [`Route`] and [`Policy`].

mod cors;
mod forms;
mod pattern;
mod policy;
mod probe;
mod table;

pub use cors::{BadOrigin, Cors, OriginPattern, Origins};
pub use pattern::{BadPathPattern, Matcher, PathPattern};
pub use policy::{
    AfterExpiry, KEY_AGE_MARGIN, KEY_AHEAD_MAX, KeyAge, Mode, OnStoreDown, OnUnknown, Policy,
    RetentionPolicy, Route, Standing,
};
pub use probe::{
    BadBraces, BadProbePath, KEY, Probe, ProbePath, ProbeResponse, ProbeValue, Silent, Template,
};
pub use table::{Found, Table};
