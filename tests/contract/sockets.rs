//! Sockets that a service manager keeps open: a restart is a pause, and no refusal.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::{Connection, Gateway, Setup, ToyUpstream, payment, until};

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

async fn progresses(answered: &AtomicUsize) {
    let before = answered.load(Ordering::Relaxed);
    until("more answers", || async {
        (answered.load(Ordering::Relaxed) > before + 20).then_some(())
    })
    .await;
}
