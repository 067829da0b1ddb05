//! What the compose file puts together, without containers: its configuration, its API, its Redis.

use super::server::Server;
use super::support::{
    Connection, Engine, Gateway, RedisServer, Request, free_port, payment, tool, until,
};
use super::{path, text};

/// `redis.conf` as arguments, but for the folder.
fn redis_settings() -> Vec<String> {
    let file = text("deploy/compose/redis.conf");
    file.lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("dir "))
        .flat_map(|line| {
            let (name, value) = line.split_once(' ').expect("a setting");
            [format!("--{name}"), value.to_owned()]
        })
        .collect()
}

#[tokio::test]
async fn its_gateway_charges_once_and_remembers_it_in_redis() {
    let settings = redis_settings();
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    settings.extend(["--requirepass", "a password"]);
    let redis = RedisServer::start_with(Engine::Redis, &settings);
    let port = free_port();
    let _api = Server::start(
        Server::command(&tool("python3"))
            .arg(path("deploy/compose/api.py"))
            .env("LISTEN", format!("127.0.0.1:{port}")),
    );
    let secrets = tempfile::tempdir().expect("a folder");
    let secret = |name: &str, text: &str| {
        std::fs::write(secrets.path().join(name), text).expect("a file");
    };
    secret("redis", "a password");
    secret("oncegate-admin", "a-token-of-the-operator");
    secret("oncegate-id", "a secret of more than thirty-two bytes");
    let config = text("deploy/compose/oncegate.toml")
        .replace("redis:6379", &format!("127.0.0.1:{}", redis.port))
        .replace("api:9000", &format!("127.0.0.1:{port}"))
        .replace("0.0.0.0:9090", "127.0.0.1:9090")
        .replace("/run/secrets", secrets.path().to_str().expect("letters"));
    let gateway = Gateway::start(&config).await;
    until("the API", || async {
        let address = ([127, 0, 0, 1], port).into();
        Connection::try_open(address).await.ok()
    })
    .await;
    let order = payment("order-1").header("X-Tenant", "shop-1");
    gateway.send(&order).await.is(201, "executed");
    let replay = gateway.send(&order).await;
    replay.is(201, "replayed");
    assert_eq!(replay.json()["charge"], "ch_1");
    gateway.send(&Request::get("/health")).await.is(200, "");
    let keys = ["--no-auth-warning", "-a", "a password", "DBSIZE"];
    assert_ne!(redis.cli(&keys), "0");
}
