//! The PROXY header that a connection begins with where a listener requires one: who the client of the proxy is
//! (HAProxy's `proxy-protocol.txt`, versions 1 and 2).

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt;

use super::stream::Raw;

/// What version 2 begins with, and the bytes up to the end of its length.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// What version 1 begins with, and how long it may be.
const WORD: &[u8] = b"PROXY ";
const MAX_LINE: usize = 107;

/// The longest header of version 2: addresses, and what proxies write behind them (names, certificates' subjects).
const MAX_HEADER: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing: the proxy speaks for itself, as it does to see whether this gateway is there.
    Nothing,
    /// The client's address; none where it came to the proxy over a Unix socket.
    Client(Option<SocketAddr>),
}

/// Reads a header, and nothing behind it. `None`: what came is none.
pub(super) async fn read(raw: &mut Raw) -> io::Result<Option<Told>> {
    let mut bytes = BytesMut::with_capacity(MAX_HEADER);
    loop {
        if raw.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match length(&bytes) {
            Length::Unknown => {}
            Length::None => return Ok(None),
            Length::Known(length) => {
                let told = told(&bytes[..length]);
                bytes.advance(length);
                // Not the buffer of the header, which is larger than what is left in it.
                raw.put_back(Bytes::copy_from_slice(&bytes));
                return Ok(told);
            }
        }
    }
}

/// How long the header is that begins here.
enum Length {
    /// More has to come.
    Unknown,
    /// So long, and it is here.
    Known(usize),
    /// It is none.
    None,
}

fn length(bytes: &[u8]) -> Length {
    if bytes.starts_with(SIGNATURE) {
        let Some(&[high, low]) = bytes.get(FIXED - 2..FIXED) else {
            return Length::Unknown;
        };
        let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
        return match length {
            _ if length > MAX_HEADER => Length::None,
            _ if length > bytes.len() => Length::Unknown,
            _ => Length::Known(length),
        };
    }
    if bytes.starts_with(WORD) {
        let line = &bytes[..bytes.len().min(MAX_LINE)];
        return match line.windows(2).position(|end| end == b"\r\n") {
            Some(end) => Length::Known(end + 2),
            None if line.len() == MAX_LINE => Length::None,
            None => Length::Unknown,
        };
    }
    match SIGNATURE.starts_with(bytes) || WORD.starts_with(bytes) {
        true => Length::Unknown,
        false => Length::None,
    }
}

fn told(header: &[u8]) -> Option<Told> {
    let client = |address: IpAddr, port| Told::Client(Some(SocketAddr::new(address, port)));
    match HeaderResult::parse(header) {
        HeaderResult::V1(header) => Some(match header.ok()?.addresses {
            v1::Addresses::Unknown => Told::Nothing,
            v1::Addresses::Tcp4(tcp) => client(tcp.source_address.into(), tcp.source_port),
            v1::Addresses::Tcp6(tcp) => client(tcp.source_address.into(), tcp.source_port),
        }),
        HeaderResult::V2(header) => {
            let header = header.ok()?;
            match (header.command, header.protocol, header.addresses) {
                (v2::Command::Local, ..) => Some(Told::Nothing),
                // No connection of ours comes from datagrams.
                (v2::Command::Proxy, v2::Protocol::Datagram, _) => None,
                (v2::Command::Proxy, _, addresses) => Some(match addresses {
                    v2::Addresses::Unspecified => Told::Nothing,
                    v2::Addresses::IPv4(tcp) => client(tcp.source_address.into(), tcp.source_port),
                    v2::Addresses::IPv6(tcp) => client(tcp.source_address.into(), tcp.source_port),
                    v2::Addresses::Unix(_) => Told::Client(None),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// As [`read`] does, byte by byte; the rest stays.
    fn read_slowly(bytes: &[u8]) -> Option<(Option<Told>, &[u8])> {
        (1..=bytes.len()).find_map(|count| match length(&bytes[..count]) {
            Length::Unknown => None,
            Length::Known(length) => Some((told(&bytes[..length]), &bytes[length..])),
            Length::None => Some((None, &bytes[count..])),
        })
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, rest].concat()
    }

    #[test]
    fn a_header_of_either_version_names_the_client_and_ends_where_it_ends() {
        let v4 = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 4711));
        let v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 4711));
        let tcp4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets();
        let tcp6 = [&ipv6[..], &ipv6[..], &[0x12, 0x67, 0, 80]].concat();
        let with_tlv = [&tcp4[..], &[0x04, 0, 3, 0, 0, 0]].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
                Told::Client(Some(v4)),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(),
                Told::Client(Some(v6)),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Told::Nothing),
            (b"PROXY UNKNOWN ff ff 1 2\r\n".to_vec(), Told::Nothing),
            (version_2(1, 0x11, &tcp4), Told::Client(Some(v4))),
            (version_2(1, 0x21, &tcp6), Told::Client(Some(v6))),
            (version_2(1, 0x11, &with_tlv), Told::Client(Some(v4))),
            (version_2(1, 0x31, &[0; 216]), Told::Client(None)),
            (version_2(1, 0x00, &[]), Told::Nothing),
            (version_2(0, 0x00, &[]), Told::Nothing),
            (version_2(0, 0x11, &tcp4), Told::Nothing),
        ] {
            let bytes = [&header[..], b"GET"].concat();
            let read = read_slowly(&bytes);
            assert_eq!(
                read,
                Some((Some(expected), &b"GET"[..])),
                "{}",
                header.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_no_header_is_known_for_it() {
        let long = [b"PROXY TCP4 ", &[b'1'; 200][..], b"\r\n"].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXX".to_vec(),
            b"\r\n\r\n\0\r\nQUIX\n".to_vec(),
            b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 99999\r\n".to_vec(),
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n".to_vec(),
            long,
            version_2(1, 0x11, &[0; 11]),
            version_2(1, 0x12, &[0; 12]),
            version_2(2, 0x11, &[0; 12]),
            version_2(1, 0x11, &[0; MAX_HEADER]),
        ] {
            let read = read_slowly(&bytes);
            assert!(
                matches!(read, Some((None, _))),
                "{}: {read:?}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for _ in 0..20_000 {
            let mut bytes = version_2(1, 0x11, &[7; 12]);
            bytes.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(40));
            for _ in 0..fastrand::usize(1..6) {
                let place = fastrand::usize(12..bytes.len());
                bytes[place] = fastrand::u8(..);
            }
            read_slowly(&bytes);
            let mut line = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET".to_vec();
            let place = fastrand::usize(6..line.len());
            line[place] = fastrand::u8(..);
            read_slowly(&line);
        }
    }
}
