//! What clients send is readable in no log and in no file of the store.

use crate::gateways::{id_key, setup};
use crate::support::{Act, RedisServer, ToyUpstream, payment, tool};

#[tokio::test]
async fn a_secret_in_key_credential_or_body_is_in_no_log_and_in_no_file_of_the_server() {
    let upstream = ToyUpstream::start();
    let server =
        RedisServer::start_with(crate::support::Engine::Redis, &["--rdbcompression", "no"]);
    let (key, directory) = id_key("k");
    let sealing = directory.path().join("sealing");
    // 32 bytes, in base64.
    std::fs::write(&sealing, format!("{}=", "A".repeat(43))).expect("a file");
    let setup = setup(&upstream, &server, &key).store(&format!(
        "encryption_keys = [{{ id = \"a\", key = {{ file = {sealing:?} }} }}]"
    ));
    let gateway = setup.start().await;
    upstream.always(|received| Act::respond(201, &[("X-Echo", "planted-header")], &received.body));
    let secret = || {
        payment("planted-key")
            .auth("Bearer planted-credential")
            .body("{\"card\":\"planted-body\"}")
    };
    gateway.send(&secret()).await.is(201, "executed");
    gateway.send(&secret()).await.is(201, "replayed");
    let other = secret().body("{\"card\":\"planted-other\"}");
    gateway.send(&other).await.is(422, "refused");

    let path = server.cli(&["CONFIG", "GET", "dir"]);
    let folder = path.lines().last().expect("a folder").to_owned();
    assert_eq!(server.cli(&["SAVE"]), "OK");
    let file = std::fs::read(std::path::Path::new(&folder).join("dump.rdb")).expect("a file");
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains("payments-test"), "the file holds the records");
    assert!(
        !text.contains("planted"),
        "the server's file holds a secret"
    );
    let _ = tool("redis-cli");
    let log = gateway.log().text();
    assert!(
        log.contains("listening") && !log.contains("planted"),
        "{log}"
    );
}
