//! Sockets that a service manager keeps open: a restart is a pause, and no refusal.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Connection, Gateway, Setup, ToyUpstream, free_port, payment, tool, until};

#[tokio::test]
async fn a_restart_on_a_passed_socket_refuses_no_connection() {
    let upstream = ToyUpstream::start();
    let setup = Setup::payments(&upstream)
        .embedded()
        .top("drain_delay = \"0s\"");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let mut gateway = Gateway::start_on(socket, &setup.toml()).await;
    assert_eq!(gateway.address, address);
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let load: Vec<_> = (0..3)
        .map(|client| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let request = payment(&format!("{client}-{number}"));
                    let opened = Connection::try_open(address).await;
                    let mut connection = opened.expect("no connection is refused");
                    let answer = connection.send(&request).await;
                    assert_eq!(answer.status, 201, "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..2 {
        progresses(&answered).await;
        gateway.sigterm();
        assert_eq!(gateway.ended().await.code(), Some(0));
        gateway.restart().await;
        assert_eq!(gateway.address, address);
    }
    progresses(&answered).await;
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("no connection is refused");
    }
    assert_eq!(upstream.charges(), answered.load(Ordering::Relaxed));
}

/// As a `.socket` unit does: it opens the socket, and starts the gateway when somebody comes.
#[tokio::test]
async fn who_calls_the_gateway_up_on_a_socket_of_systemds_is_the_first_to_be_served() {
    let upstream = ToyUpstream::start();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let setup = Setup::payments(&upstream).top("drain_delay = \"0s\"");
    let toml = format!("{}\n[[listeners]]\naddress = \"{address}\"\n", setup.toml());
    let caller = tokio::spawn(async move {
        let mut caller = until("the socket to be there", || async {
            Connection::try_open(address).await.ok()
        })
        .await;
        caller.send(&payment("k")).await
    });
    let program = tool("systemd-socket-activate").display().to_string();
    let (listen, name) = (format!("--listen={address}"), "--fdname=oncegate.socket");
    let mut gateway = Gateway::start_through(&[&program, &listen, name], &toml).await;
    assert_eq!(gateway.address, address);
    caller.await.expect("an answer").is(201, "executed");
    gateway.send(&payment("k")).await.is(201, "replayed");
    gateway.sigterm();
    assert_eq!(gateway.ended().await.code(), Some(0));
}

async fn progresses(answered: &AtomicUsize) {
    let before = answered.load(Ordering::Relaxed);
    until("more answers", || async {
        (answered.load(Ordering::Relaxed) > before + 20).then_some(())
    })
    .await;
}
