//! What a host looks like.

/// Whether this is a host that everybody reads alike, with or without a port: a name of letters, digits, `-`, `_` and
/// single dots, or an address; no user, nothing percent-encoded, nothing empty (RFC 9110, section 7.2).
#[must_use]
pub fn is_plain_host(host: &[u8]) -> bool {
    let (name, port) = if let Some(literal) = host.strip_prefix(b"[") {
        let Some(end) = literal.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let is_address = std::str::from_utf8(&literal[..end])
            .is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        if !is_address {
            return false;
        }
        (&b"v6"[..], &literal[end + 1..])
    } else {
        let end = host.iter().position(|byte| *byte == b':');
        host.split_at(end.unwrap_or(host.len()))
    };
    is_name(name) && is_port(port)
}

fn is_name(name: &[u8]) -> bool {
    let mut previous = b'.';
    for byte in name {
        let is_fine = match byte {
            b'.' => previous != b'.',
            byte => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        };
        if !is_fine {
            return false;
        }
        previous = *byte;
    }
    !name.is_empty()
}

/// Nothing, or a colon and a port.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', b'1'..=b'9', rest @ ..] => {
            rest.len() < 5
                && rest.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(&port[1..]).is_ok_and(|port| port.parse::<u16>().is_ok())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_plain() {
        for host in [
            "a",
            "api.example.com",
            "api.example.com.",
            "A-b_c.1:65535",
            "127.0.0.1:80",
            "[::1]",
            "[2001:db8::1]:443",
        ] {
            assert!(is_plain_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn whatever_else_somebody_may_read_in_another_way_is_not() {
        for host in [
            "",
            ".",
            ".a",
            "a..b",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:b",
            "a:1:2",
            "u@a",
            "a b",
            "a,b",
            "a/b",
            "a%2e",
            "a;b",
            "a\\b",
            "[::1",
            "[::1]a",
            "[]",
            "[a]",
            "[::1%25lo]",
            "::1",
            "a\u{e9}",
            "a#",
            "a?",
        ] {
            assert!(!is_plain_host(host.as_bytes()), "{host}");
        }
    }
}
