//! Unix sockets, and connections that begin with a PROXY header.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;

use tokio::net::UnixStream;

use super::*;

/// A listener as `[[listeners]]` with these lines.
pub(super) fn listener(lines: &str) -> ListenerConfig {
    let text = format!(
        "[[listeners]]\n{lines}\n[upstreams.u]\nendpoints = [\"http://127.0.0.1:1\"]\n\
         [[routes]]\nname = \"r\"\npath = \"/*\"\nupstream = \"u\"\nmode = \"pass\"\n"
    );
    let config = crate::config::Config::parse(&text, "f").unwrap().config;
    config.listeners.into_iter().next().unwrap()
}

fn at(path: &Path, lines: &str) -> ListenerConfig {
    listener(&format!("address = \"unix:{}\"\n{lines}", path.display()))
}

#[tokio::test]
async fn a_unix_socket_is_served_and_its_file_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    let running = start_at(&at(&path, "mode = \"0600\""), &limits());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut socket = UnixStream::connect(&path).await.unwrap();
    say(&mut socket, get("/peer")).await;
    let heard = hear(&mut socket, "gate.sock").await;
    assert!(
        heard.contains(&format!("unix: unix:{}", path.display())),
        "{heard}"
    );
    running.drain_within(FOREVER);
    running.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_a_process_left_behind_is_replaced_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    // Without listening on it any more; the file stays.
    drop(StdUnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let running = start_at(&at(&path, ""), &limits());
    UnixStream::connect(&path).await.unwrap();

    let refused = |path: &Path| {
        let error = Server::bind(&[at(path, "")], &limits())
            .err()
            .expect("a refusal");
        error.to_string()
    };
    assert!(
        refused(&path).contains("somebody answers"),
        "{}",
        refused(&path)
    );
    UnixStream::connect(&path).await.unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(refused(&file).contains("no socket"), "{}", refused(&file));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    drop(running);
}

#[tokio::test]
async fn a_socket_whose_owner_is_too_busy_to_accept_is_not_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    let busy = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    busy.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let _waiting = UnixStream::connect(&path).await.unwrap();
    let refused = Server::bind(&[at(&path, "")], &limits()).err();
    let refused = refused.expect("a refusal").to_string();
    assert!(refused.contains("somebody answers"), "{refused}");
}

#[tokio::test]
async fn the_end_of_one_process_leaves_the_socket_of_the_next_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    let first = start_at(&at(&path, ""), &limits());
    fs::remove_file(&path).unwrap();
    let second = start_at(&at(&path, ""), &limits());
    first.drain_within(FOREVER);
    first.ended().await;
    UnixStream::connect(&path).await.unwrap();
    drop(second);
}

const PROXIED: &str = "address = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
                       trusted_proxies = [\"127.0.0.0/8\"]";

/// A header of version 2 with addresses of IPv4: a connection, or the proxy itself.
fn version_2(command: u8) -> Vec<u8> {
    let fixed = [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, 0x11, 0, 12][..]].concat();
    [&fixed[..], &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0, 80]].concat()
}

#[tokio::test]
async fn the_client_is_whom_the_proxy_header_names() {
    let running = start_at(&listener(PROXIED), &limits());
    let itself = "127.0.0.1:";
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            "192.0.2.1:4711 ",
        ),
        (
            b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\n".to_vec(),
            "[2001:db8::1]:4711 ",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), itself),
        (version_2(1), "192.0.2.1:4711 "),
        (version_2(0), itself),
    ] {
        // Together with the request, and in small pieces.
        let whole = [&header[..], get("/peer").as_bytes()].concat();
        let mut at_once = running.connect().await;
        say(&mut at_once, &whole).await;
        let mut in_pieces = running.connect().await;
        in_pieces.set_nodelay(true).unwrap();
        for piece in whole.chunks(5) {
            say(&mut in_pieces, piece).await;
            tokio::task::yield_now().await;
        }
        for socket in [&mut at_once, &mut in_pieces] {
            let heard = hear(socket, &running.address.to_string()).await;
            assert!(heard.contains(&format!("\r\n\r\n{client}")), "{heard}");
        }
    }
    let mut http2_header = running.connect().await;
    say(&mut http2_header, version_2(1)).await;
    let io = TokioIo::new(http2_header);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut http2, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let (_, body) = ask(&mut http2, "/peer").await;
    assert!(body.starts_with(b"192.0.2.1:4711 "), "{body:?}");
}

#[tokio::test]
async fn a_connection_without_its_proxy_header_is_closed_unanswered() {
    let running = start_at(
        &listener(PROXIED),
        &Limits {
            first_byte: SHORT,
            ..limits()
        },
    );
    for beginning in [get("/"), "PROXY TCP4 nonsense\r\n".to_owned()] {
        let mut socket = running.connect().await;
        say(&mut socket, beginning).await;
        assert_eq!(hear_all(&mut socket).await, b"");
    }
    assert_eq!(running.entrance.proxy_failures(), [0, 2]);
    for beginning in ["", "PROXY TCP4 192.0.2.1"] {
        let mut socket = running.connect().await;
        say(&mut socket, beginning).await;
        ends_silently(&mut socket, SHORT, FOREVER).await;
    }
    let closed = running.counters.snapshot().closed;
    assert_eq!(closed[Limit::FirstByte as usize], 2);
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_says_where_a_connection_comes_from() {
    let lines = PROXIED.replace("127.0.0.0/8", "192.0.2.0/24");
    let running = start_at(&listener(&lines), &limits());
    let mut socket = running.connect().await;
    socket.write_all(b"PROXY UNKNOWN\r\n").await.ok();
    assert_eq!(hear_all(&mut socket).await, b"");
    assert_eq!(running.entrance.proxy_failures(), [1, 0]);
}

#[tokio::test]
async fn who_finds_the_server_full_behind_a_proxy_is_told() {
    let running = start_at(
        &listener(PROXIED),
        &Limits {
            max_connections: 1,
            ..limits()
        },
    );
    let mut first = running.connect().await;
    say(&mut first, [version_2(1), get("/").into()].concat()).await;
    hear(&mut first, "ok").await;
    let mut second = running.connect().await;
    say(&mut second, [version_2(1), get("/").into()].concat()).await;
    let heard = String::from_utf8(hear_all(&mut second).await).unwrap();
    assert!(heard.starts_with("HTTP/1.1 503 "), "{heard}");
}
