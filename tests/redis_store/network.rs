//! Two networks with a wire between them that can be cut as a switch that dies cuts it: nothing is refused and nothing
//! closed, packets vanish. Needs the right to make networks: root has it, and everybody under
//! `unshare --map-root-user --net`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::support::Place;

/// The sides, by where they are in [`Network::sides`].
pub const NEAR: usize = 0;
pub const FAR: usize = 1;

/// The addresses of the sides, and those of the ends of the wire.
const HOSTS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const ENDS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// Where no end is.
const NOWHERE: &str = "02:00:00:00:00:99";

/// Two networks. Dropping them takes them away, with whatever still runs there.
pub struct Network {
    sides: Vec<Side>,
}

/// One of them: it is there for as long as this process is.
struct Side(Child);

impl Network {
    pub fn lay() -> Self {
        let network = Self {
            sides: vec![Side::new(), Side::new()],
        };
        let [near, far] = ENDS;
        let pid = network.sides[FAR].0.id().to_string();
        let wire = ["link", "add", "wire", "address", near, "type", "veth"];
        let peer = ["peer", "name", "wire", "address", far, "netns", &pid];
        network.ip(NEAR, &[&wire[..], &peer].concat());
        for side in [NEAR, FAR] {
            let (host, other) = (
                format!("{}/32", HOSTS[side]),
                format!("{}/32", HOSTS[1 - side]),
            );
            network.ip(side, &["link", "set", "lo", "up"]);
            network.ip(side, &["addr", "add", &host, "dev", "lo"]);
            network.ip(side, &["link", "set", "wire", "up"]);
            let route = ["route", "add", &other, "dev", "wire", "src", HOSTS[side]];
            network.ip(side, &route);
        }
        network
    }

    /// Where servers of this side run.
    pub fn place(&self, side: usize) -> Place {
        Place {
            host: HOSTS[side].to_owned(),
            through: self.enter(side),
        }
    }

    /// From now on nothing gets to the other side.
    pub fn cut(&self) {
        for side in [NEAR, FAR] {
            self.lead(side, NOWHERE);
        }
    }

    pub fn heal(&self) {
        for side in [NEAR, FAR] {
            self.lead(side, ENDS[1 - side]);
        }
    }

    /// Does something in one of the networks, on a thread of its own; what comes of it.
    pub fn inside<T, F>(
        &self,
        side: usize,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> oneshot::Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let network = File::open(format!("/proc/{}/ns/net", self.sides[side].0.id()));
        let network = network.expect("the network of a process");
        let (done, result) = oneshot::channel();
        std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).expect("the right to change networks");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            // The test may be over.
            let _ = done.send(runtime.expect("a runtime").block_on(work()));
        });
        result
    }

    /// Where packets to the other side go.
    fn lead(&self, side: usize, end: &str) {
        let other = HOSTS[1 - side];
        let words = ["neigh", "replace", other, "lladdr", end, "dev", "wire"];
        self.ip(side, &[&words[..], &["nud", "permanent"]].concat());
    }

    fn ip(&self, side: usize, words: &[&str]) {
        let through = self.enter(side);
        let status = Command::new(&through[0])
            .args(&through[1..])
            .arg("ip")
            .args(words)
            .status();
        assert!(status.expect("nsenter").success(), "ip {words:?}");
    }

    fn enter(&self, side: usize) -> Vec<String> {
        let pid = self.sides[side].0.id().to_string();
        ["nsenter", "--net", "--target", &pid]
            .map(str::to_owned)
            .to_vec()
    }
}

impl Side {
    fn new() -> Self {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let said = BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line);
        said.expect("a word");
        assert_eq!(
            line, "here\n",
            "no network can be made: be root, or run this under `unshare --map-root-user --net`"
        );
        Self(process)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
