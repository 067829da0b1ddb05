//! `oncegate demo`: shows within seconds what the gateway is for.
//!
//! Three parties: a toy payments API in this process that charges at every call, the gateway as a child process
//! of the same binary (so that killing it is real), and a client that retries as clients do. Every step checks
//! what it shows; the demo is also a smoke test.

mod client;
mod gateway;
mod payments;
mod timeline;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use client::{Heard, Payment, Wallet};
use gateway::Gateway;
use payments::PaymentsApi;
use timeline::Timeline;

/// How long any single wait of the demo may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause before the client asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often a client asks again at most.
const MAX_RETRIES: usize = 40;
/// What the orders cost, in cents.
const AMOUNT_CENTS: u64 = 1999;

/// Why a demo could not be given, or what it showed to be broken.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The timeline could not be printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// No temporary directory, no free port, no signal handler, or the like.
    #[error("{what}: {source}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The gateway ended, or did not become ready.
    #[error("the gateway {what}; its last words:\n{log}")]
    Gateway {
        /// What it did instead.
        what: &'static str,
        /// The end of its log.
        log: String,
    },
    /// Something that should take moments took longer than the demo waits.
    #[error("waited in vain for {0}")]
    Deadline(&'static str),
    /// The gateway did not do what it promises.
    #[error("not as promised: {0}")]
    Broken(String),
}

/// Runs the steps and prints their timeline; without `once` it then stays up, with ready-made curl lines,
/// until it is interrupted.
///
/// The exit code is 0 only if every promise held.
///
/// # Errors
/// [`DemoError`] where the demo could not be given at all. A promise that did not hold is no error of this
/// function: it is printed, and the exit code says it.
pub async fn run(once: bool) -> Result<ExitCode, DemoError> {
    // Before anything is made that an interrupt should not leave behind.
    let mut interrupts = Interrupts::new()?;
    let directory = tempfile::tempdir().map_err(|source| DemoError::Setup {
        what: "cannot make a temporary directory",
        source,
    })?;
    let script = async {
        let mut demo = Demo::start(directory.path()).await?;
        let held = demo.script().await?;
        Ok::<_, DemoError>((demo, held))
    };
    let (mut demo, held) = tokio::select! {
        shown = script => shown?,
        () = interrupts.next() => return Ok(ExitCode::FAILURE),
    };
    if !held {
        return Ok(ExitCode::FAILURE);
    }
    if !once {
        demo.stay_up(&mut interrupts).await?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Demo {
    timeline: Timeline,
    wallet: Wallet,
    api: PaymentsApi,
    gateway: Gateway,
}

impl Demo {
    async fn start(directory: &Path) -> Result<Self, DemoError> {
        let api = PaymentsApi::start().await?;
        let gateway = Gateway::start(directory, api.address()).await?;
        Ok(Self {
            timeline: Timeline::start(),
            wallet: Wallet::new(gateway.address()),
            api,
            gateway,
        })
    }

    /// Whether every promise held.
    async fn script(&mut self) -> Result<bool, DemoError> {
        match self.steps().await {
            Ok(()) => {
                let (requests, charges) = (self.wallet.requests(), self.api.charges());
                self.timeline.promises_held(requests, charges)?;
                Ok(true)
            }
            Err(DemoError::Broken(what)) => {
                self.timeline.promise_broken(&what)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn steps(&mut self) -> Result<(), DemoError> {
        self.timeline.head()?;
        self.copies_at_the_same_moment().await?;
        self.another_payload_under_the_same_key().await?;
        self.an_answer_that_comes_too_late().await?;
        self.a_client_that_hangs_up().await?;
        self.a_gateway_that_is_killed().await
    }

    async fn copies_at_the_same_moment(&mut self) -> Result<(), DemoError> {
        self.timeline
            .step("One payment, and three copies of it while it is under way")?;
        let order = payment("order-1").taking_ms(200);
        let charges = self.api.charges();
        let original = self.wallet.spawn(&order);
        self.api.charged(charges + 1).await?;
        let copies = [(); 3].map(|()| self.wallet.spawn(&order));
        let mut answers = vec![original.heard().await];
        for copy in copies {
            answers.push(copy.heard().await);
        }
        for (index, heard) in answers.iter().enumerate() {
            let (whose, note) = match index {
                0 => ("", "sent to the API, once"),
                _ => ("copy", "waited, and hears the same"),
            };
            self.show(&order, whose, heard, note)?;
        }
        self.expect_charges(charges + 1)?;
        expect(&answers[0], 201, "executed")?;
        for copy in &answers[1..] {
            expect(copy, 201, "replayed")?;
            expect_same(&answers[0], copy)?;
        }
        Ok(())
    }

    async fn another_payload_under_the_same_key(&mut self) -> Result<(), DemoError> {
        self.timeline.step("The same key for another payment")?;
        let order = Payment {
            cents: AMOUNT_CENTS + 500,
            ..payment("order-1").taking_ms(200)
        };
        let charges = self.api.charges();
        let heard = self.wallet.send(&order).await;
        self.show(&order, "", &heard, "the client's mistake: not sent")?;
        expect(&heard, 422, "refused")?;
        self.expect_charges(charges)
    }

    async fn an_answer_that_comes_too_late(&mut self) -> Result<(), DemoError> {
        self.timeline
            .step("The API charges, but answers only after the gateway's timeout of 1 s")?;
        let order = payment("order-2").taking_ms(2500);
        let charges = self.api.charges();
        let first = self.wallet.send(&order).await;
        self.show(&order, "", &first, "sent, no answer: nobody knows")?;
        expect(&first, 504, "unknown")?;
        let retry = self.wallet.send(&order).await;
        self.show(&order, "retry", &retry, "not known yet, and not sent again")?;
        expect_state(&retry, 409, "unknown")?;
        let settled = self.retry_while(&order, "unknown").await?;
        self.show(&order, "retry", &settled, "the late answer has come")?;
        expect(&settled, 201, "replayed")?;
        self.expect_charges(charges + 1)
    }

    async fn a_client_that_hangs_up(&mut self) -> Result<(), DemoError> {
        self.timeline
            .step("A client that hangs up in the middle, and comes back")?;
        let order = payment("order-3").taking_ms(300);
        let charges = self.api.charges();
        let first = self.wallet.spawn(&order);
        self.api.charged(charges + 1).await?;
        self.show(
            &order,
            "",
            &first.hang_up(),
            "gone; the work goes on without it",
        )?;
        let retry = self.wallet.send(&order).await;
        self.show(&order, "retry", &retry, "the answer that was missed")?;
        expect(&retry, 201, "replayed")?;
        self.expect_charges(charges + 1)
    }

    async fn a_gateway_that_is_killed(&mut self) -> Result<(), DemoError> {
        self.timeline
            .step("kill -9 while the API is charging, then a restart")?;
        let order = payment("order-4").taking_ms(3000);
        let charges = self.api.charges();
        let first = self.wallet.spawn(&order);
        self.api.charged(charges + 1).await?;
        self.gateway.kill()?;
        let first = first.heard().await;
        self.show(&order, "", &first, "the gateway died in the middle")?;
        self.gateway.restart().await?;
        self.wallet.connect_to(self.gateway.address());

        let old = payment("order-1").taking_ms(200);
        let replay = self.wallet.send(&old).await;
        self.show(&old, "retry", &replay, "the new process has the records")?;
        expect(&replay, 201, "replayed")?;

        let retry = self.retry_while(&order, "in_progress").await?;
        self.show(
            &order,
            "retry",
            &retry,
            "perhaps charged, so not sent again",
        )?;
        expect_state(&retry, 409, "unknown")?;
        self.expect_charges(charges + 1)
    }

    /// Asks again and again while the answer says that the operation is in this state.
    async fn retry_while(&mut self, order: &Payment, state: &str) -> Result<Heard, DemoError> {
        for _ in 0..MAX_RETRIES {
            let heard = self.wallet.send(order).await;
            if heard.operation_state().as_deref() != Some(state) {
                return Ok(heard);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(DemoError::Broken(format!("{} stays {state}", order.key)))
    }

    fn show(
        &mut self,
        order: &Payment,
        whose: &str,
        heard: &Heard,
        note: &str,
    ) -> Result<(), DemoError> {
        self.timeline
            .line(order, whose, heard, note, self.api.charges())
    }

    fn expect_charges(&self, expected: usize) -> Result<(), DemoError> {
        match self.api.charges() {
            found if found == expected => Ok(()),
            found => Err(DemoError::Broken(format!(
                "{found} charges instead of {expected}"
            ))),
        }
    }

    /// Waits for an interrupt, and shows each charge that visitors make.
    async fn stay_up(&mut self, interrupts: &mut Interrupts) -> Result<(), DemoError> {
        self.timeline
            .invitation(self.gateway.address(), self.gateway.admin())?;
        let mut charges = self.api.watch();
        charges.mark_unchanged();
        loop {
            tokio::select! {
                () = interrupts.next() => return Ok(()),
                changed = charges.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let number = *charges.borrow_and_update();
                    self.timeline.charged(number)?;
                }
            }
        }
    }
}

/// SIGINT and SIGTERM.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, DemoError> {
        let wait_for = |kind| {
            signal(kind).map_err(|source| DemoError::Setup {
                what: "cannot wait for signals",
                source,
            })
        };
        Ok(Self {
            interrupt: wait_for(SignalKind::interrupt())?,
            terminate: wait_for(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn payment(key: &str) -> Payment {
    Payment {
        key: key.to_owned(),
        cents: AMOUNT_CENTS,
        takes_ms: 0,
    }
}

fn expect(heard: &Heard, status: u16, idempotency_status: &str) -> Result<(), DemoError> {
    match heard {
        Heard::Answer(answer)
            if answer.status == status && answer.idempotency_status == idempotency_status =>
        {
            Ok(())
        }
        other => Err(DemoError::Broken(format!(
            "expected {status} {idempotency_status}, heard {other:?}"
        ))),
    }
}

fn expect_state(heard: &Heard, status: u16, state: &str) -> Result<(), DemoError> {
    match heard {
        Heard::Answer(answer)
            if answer.status == status && heard.operation_state().as_deref() == Some(state) =>
        {
            Ok(())
        }
        other => Err(DemoError::Broken(format!(
            "expected {status} {state}, heard {other:?}"
        ))),
    }
}

fn expect_same(first: &Heard, copy: &Heard) -> Result<(), DemoError> {
    match (first, copy) {
        (Heard::Answer(first), Heard::Answer(copy)) if first.body == copy.body => Ok(()),
        _ => Err(DemoError::Broken(format!(
            "{copy:?} is another answer than {first:?}"
        ))),
    }
}
