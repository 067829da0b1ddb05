//! Settings that have to fit to one another: what is said where they do not, with every place that is written.

use std::net::SocketAddr;
use std::time::Duration;

use super::file::{
    AdminFile, ConfigFile, LimitsFile, ListenerFile, OutcomesFile, RetentionFile, RouteFile,
    StoreFile,
};
use super::finding::{Findings, Place};
use super::listener::ListenAddress;
use super::quantity::{Count, at_least_in_words, duration_in_words, size_in_words};
use super::setting::Setting;
use super::words::{KeyAgeWord, ModeWord, OnUnknownWord};
use crate::identity::KeyFormat;
use crate::route::{KEY_AGE_MARGIN, KEY_AHEAD_MAX, KeyAge, Policy};

/// How long a key has to be remembered at least where old ones are refused: with less, hardly any key would be young.
const MIN_REMEMBERED: Duration = KEY_AHEAD_MAX
    .saturating_add(KEY_AGE_MARGIN)
    .saturating_mul(2);

/// No address is listened on twice.
pub(super) fn addresses(
    listeners: &[ListenerFile],
    admin: Option<&AdminFile>,
    findings: &mut Findings,
) {
    let listeners = listeners
        .iter()
        .map(|listener| Wanted::of(&listener.address, listener.address.value()));
    let admin = admin.map(|admin| {
        let address = admin.address.value().map(ListenAddress::Tcp);
        Wanted::of(&admin.address, address)
    });
    let all: Vec<Wanted<'_>> = listeners.chain(admin).collect();
    for (index, wanted) in all.iter().enumerate() {
        let clashes = |first: &&Wanted<'_>| {
            let addresses = first.address.as_ref().zip(wanted.address.as_ref());
            addresses.is_some_and(|(first, address)| clash(first, address))
        };
        if let Some(first) = all[..index].iter().find(clashes) {
            taken(first, wanted, findings);
        }
    }
}

/// An address that somebody wants.
struct Wanted<'f> {
    address: Option<ListenAddress>,
    place: &'f Place,
    written: Option<&'f Place>,
}

impl<'f> Wanted<'f> {
    fn of<T>(setting: &'f Setting<T>, address: Option<ListenAddress>) -> Self {
        Self {
            address,
            place: &setting.place,
            written: setting.written(),
        }
    }
}

/// Says that two listeners want one address: at the later one that is written, for a default has no place.
fn taken(first: &Wanted<'_>, second: &Wanted<'_>, findings: &mut Findings) -> Option<()> {
    let (this, other) = if second.written.is_none() && first.written.is_some() {
        (first, second)
    } else {
        (second, first)
    };
    let by_default = match other.written {
        Some(_) => "",
        None => ", by default",
    };
    let address = this.address.as_ref()?;
    let what = match address {
        ListenAddress::Tcp(_) => "port",
        ListenAddress::Unix(_) => "path",
    };
    let message = format!(
        "{address} is taken by `{}` = \"{}\"{by_default}; choose another {what} for one of them",
        other.place.path,
        other.address.as_ref()?,
    );
    findings.conflict(this.place, message, other.written.as_slice());
    Some(())
}

/// Whether one address cannot be listened on beside the other.
fn clash(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (Some(one), Some(other)) = (one.tcp(), other.tcp()) else {
        return one == other;
    };
    let all = |address: SocketAddr| address.ip().is_unspecified();
    // Port 0 is another one each time.
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.is_ipv4() == other.is_ipv4() && (all(one) || all(other)))
}

/// A part that is written is no more than the whole: what is beyond has no effect.
pub(super) fn parts(file: &ConfigFile, findings: &mut Findings) {
    let (delay, whole) = (&file.drain_delay, &file.drain_timeout);
    if let (Some(place), Some(part), Some(all)) = (delay.written(), delay.get(), whole.get())
        && part > all
    {
        let message = format!(
            "{} is longer than the {} of `drain_timeout`, of which it is a part: what runs is cut short as soon as new \
             connections are refused; raise `drain_timeout`, or lower this",
            duration_in_words(*part),
            duration_in_words(*all),
        );
        findings.warn(place, message, whole.written().as_slice());
    }
    let Some(limits) = file.limits.get() else {
        return;
    };
    let per_address = &limits.max_connections_per_address;
    let per_key = &limits.max_waiters_per_key;
    let count = |count: &Count| count.0;
    let bounds = [
        (
            per_address
                .written()
                .zip(per_address.get().map(|some| some.0)),
            "max_connections",
            &limits.max_connections,
        ),
        (
            per_key.written().zip(per_key.get().map(count)),
            "max_waiters",
            &limits.max_waiters,
        ),
    ];
    for (part, name, whole) in bounds {
        if let (Some((place, part)), Some(all)) = (part, whole.get().map(count))
            && part > all
        {
            let message = format!(
                "{part} has no effect: `{name}` is {all}, for all of them together; raise that, or lower this"
            );
            findings.warn(place, message, whole.written().as_slice());
        }
    }
}

/// An upstream that no route names was forgotten in a route, or can go.
pub(super) fn unused_upstreams(file: &ConfigFile, findings: &mut Findings) {
    let (Some(upstreams), Some(routes)) = (file.upstreams.get(), file.routes.get()) else {
        return;
    };
    let named = |name: &str| {
        let is_it = |route: &RouteFile| match route.upstream.get() {
            Some(Some(label)) => label.0 == name,
            // What is wrong there may have meant this one.
            _ => true,
        };
        routes.iter().any(is_it)
    };
    for (name, upstream) in &upstreams.0 {
        if let Some(upstream) = upstream
            && !named(name)
        {
            let message =
                format!("no route sends anything to `{name}`: name it in a route, or remove it");
            findings.warn(&upstream.endpoints.place, message, &[]);
        }
    }
}

/// A status has one meaning.
pub(super) fn two_meanings(file: &OutcomesFile, status: u16, findings: &mut Findings) {
    let message = |list: &str| {
        format!(
            "{status} is in `{list}`, too; a status has one meaning: take it out of one of the lists"
        )
    };
    match (file.release.written(), file.unknown.written()) {
        // The place of a default is the section: what is written beside it has to give way.
        (Some(release), None) => findings.whole(
            release,
            format!("{status} is in `unknown` by default; write `unknown`, too, without it"),
        ),
        (None, Some(unknown)) => findings.whole(
            unknown,
            format!("{status} is in `release` by default; write `release`, too, without it"),
        ),
        (Some(release), Some(unknown)) if release.offset > unknown.offset => {
            findings.conflict(release, message("unknown"), &[unknown]);
        }
        _ => findings.conflict(
            &file.unknown.place,
            message("release"),
            &[&file.release.place],
        ),
    }
}

/// An unknown outcome is kept for as long as somebody works on it.
pub(super) fn retention(file: &RetentionFile, route: &RouteFile, findings: &mut Findings) {
    if let (Some(unknown), Some(longest)) = (file.unknown.get(), longest(route))
        && unknown.0 < longest.sum
    {
        let message = format!(
            "`retention.unknown` = {:?} is less than {} together: an outcome would be forgotten while it is open; it \
             has to be {} or more",
            duration_in_words(unknown.0),
            longest.parts,
            at_least_in_words(longest.sum),
        );
        // It may be one of the parts that is written, and not this one.
        let place = file.unknown.written().or(longest.written.first().copied());
        let place = place.unwrap_or(&file.unknown.place);
        findings.conflict(place, message, &longest.written);
    }
}

/// Keys that are refused by their age carry it, and are remembered for long enough to be used before.
pub(super) fn key_age(file: &RouteFile, policy: &Policy, findings: &mut Findings) {
    let format = &file.key_format;
    let others = format.written();
    let place = file.key_age.written().unwrap_or(&file.key_age.place);
    match policy.key_age {
        KeyAge::Ignore if matches!(policy.key_format, KeyFormat::Issued) => {
            let message = "issued keys carry their time, and nothing is made of it; with `key_age` = \"reject\" one whose \
                           record may be forgotten is never executed";
            findings.warn(&format.place, message.to_owned(), &[]);
        }
        KeyAge::Ignore => {}
        KeyAge::Reject if !policy.key_format.carries_time() => {
            let message = "is \"reject\", and keys of this `key_format` carry no time; write \"ulid\", \"uuid\" (of which \
                           version 7 carries it) or \"issued\" there";
            findings.conflict(place, message.to_owned(), others.as_slice());
        }
        KeyAge::Reject if policy.remembers() < MIN_REMEMBERED => {
            let message = format!(
                "is \"reject\", and keys are remembered for no longer than {}: hardly any would be young enough; each of \
                 `retention` has to be {} or more",
                duration_in_words(policy.remembers()),
                duration_in_words(MIN_REMEMBERED),
            );
            let retention = file.retention.written();
            findings.conflict(place, message, retention.as_slice());
        }
        KeyAge::Reject => {}
    }
}

/// A claim for a young key reaches the store before the key is old: what the servers say of the time and the claim take one
/// timeout each at most, and as much is left for servers whose clocks differ.
pub(super) fn key_age_in_time(
    file: &RouteFile,
    store: Option<&StoreFile>,
    findings: &mut Findings,
) {
    let Some(store_timeout) = store.map(|store| &store.timeout) else {
        return;
    };
    if let (Some(KeyAgeWord::Reject), Some(timeout)) = (file.key_age.value(), store_timeout.get())
        && file.mode.value() != Some(ModeWord::Pass)
        && timeout.0 > KEY_AGE_MARGIN / 4
    {
        let message = format!(
            "is \"reject\", and the {} of `store.timeout` are long enough for a key to grow old while it is claimed; \
             {} is the longest",
            duration_in_words(timeout.0),
            duration_in_words(KEY_AGE_MARGIN / 4),
        );
        let place = file.key_age.written().unwrap_or(&file.key_age.place);
        let other = store_timeout.written();
        findings.conflict(place, message, other.as_slice());
    }
}

/// The longest time between a claim and the recording of its outcome.
struct Longest<'r> {
    sum: Duration,
    parts: String,
    /// Where its parts are set, as far as they are.
    written: Vec<&'r Place>,
}

fn longest(route: &RouteFile) -> Option<Longest<'_>> {
    let parts = [
        (
            "response_timeout",
            route.response_timeout.get()?.0,
            route.response_timeout.written(),
        ),
        (
            "late_response",
            route.late_response.value()?,
            route.late_response.written(),
        ),
        (
            "record_timeout",
            route.record_timeout.get()?.0,
            route.record_timeout.written(),
        ),
        ("lease", route.lease.get()?.0, route.lease.written()),
    ];
    let words = parts.map(|(name, duration, _)| format!("{name} {}", duration_in_words(duration)));
    Some(Longest {
        sum: parts.iter().map(|(_, duration, _)| *duration).sum(),
        parts: words.join(" + "),
        written: parts
            .into_iter()
            .filter_map(|(.., written)| written)
            .collect(),
    })
}

/// What is sent again has to be recognised by whoever gets it.
pub(super) fn resend(file: &RouteFile, findings: &mut Findings) {
    let is_resent = file.on_unknown.value() == Some(OnUnknownWord::Resend);
    if is_resent && file.forward_key.value() == Some(false) {
        let message = "the upstream does not see the key (`forward_key` = false), so that it cannot tell an operation \
                       that is sent again from a new one and executes it twice; forward the key, or write \"hold\"";
        let other = file.forward_key.written();
        findings.warn(&file.on_unknown.place, message.to_owned(), other.as_slice());
    }
}

/// For how long an answer is waited for after an outcome was declared unknown, in words and in time. A gateway that went
/// silent may have sent its request last of all.
pub(super) fn late(
    is_silence_believed: bool,
    route: &RouteFile,
) -> Option<(&'static str, Duration)> {
    let late = *route.late_response.get()?;
    Some(match is_silence_believed {
        false => ("late_response", late),
        true => (
            "response_timeout + late_response",
            late + route.response_timeout.get()?.0,
        ),
    })
}

/// What the upstream does not know yet, it may still do: for as long as an answer to it is waited for.
pub(super) fn absent_after(
    absent_after: &Setting<Option<Duration>>,
    (parts, sum): &(&'static str, Duration),
    route: &RouteFile,
    findings: &mut Findings,
) {
    if let Some(Some(absent)) = absent_after.get()
        && absent < sum
    {
        let message = format!(
            "{} is less than {parts} = {}, for which an answer is still waited for: an operation that the upstream is still \
             at would be sent again as new; let it be {} or more, or lower `late_response`",
            duration_in_words(*absent),
            duration_in_words(*sum),
            at_least_in_words(*sum),
        );
        let other = route.late_response.written();
        findings.warn(&absent_after.place, message, other.as_slice());
    }
}

/// No body may be allowed that can never be held.
pub(super) fn limits(file: &RouteFile, limits: Option<&LimitsFile>, findings: &mut Findings) {
    let Some(max_buffered) = limits.map(|limits| &limits.max_buffered) else {
        return;
    };
    let sizes = [
        ("max_request_body", &file.max_request_body),
        ("max_response_body", &file.max_response_body),
    ];
    for (name, size) in sizes {
        if let (Some(bytes), Some(max)) = (size.get(), max_buffered.get())
            && bytes.0.0 > max.0.0
        {
            let message = format!(
                "`{name}` = \"{}\" is more than `limits.max_buffered` = \"{}\", which all bodies share; lower the \
                 former, or raise the latter",
                size_in_words(bytes.0),
                size_in_words(max.0),
            );
            // A default gives way to nothing: what is written is what has to change.
            let place = size.written().or(max_buffered.written());
            let other = max_buffered.written();
            findings.conflict(place.unwrap_or(&size.place), message, other.as_slice());
        }
    }
}

/// A claim must not be over before the store has answered it.
pub(super) fn lease(file: &RouteFile, store: Option<&StoreFile>, findings: &mut Findings) {
    let Some(store_timeout) = store.map(|store| &store.timeout) else {
        return;
    };
    if let (Some(lease), Some(timeout)) = (file.lease.get(), store_timeout.get())
        && file.mode.value() != Some(ModeWord::Pass)
        && lease.0 < 2 * timeout.0
    {
        let message = format!(
            "{} is less than twice the {} of `store.timeout`: a claim might be over before it is answered; it has to \
             be {} or more",
            duration_in_words(lease.0),
            duration_in_words(timeout.0),
            duration_in_words(2 * timeout.0),
        );
        let other = store_timeout.written();
        findings.conflict(&file.lease.place, message, other.as_slice());
    }
}
