//! What the demo prints: one line for each request, in columns.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Instant;

use super::client::{Heard, Payment};
use super::{AMOUNT_CENTS, DemoError};

/// Where the lines go, and since when.
pub(super) struct Timeline {
    began: Instant,
    colour: bool,
    steps: usize,
    /// Lines of requests so far.
    shown: usize,
}

/// Colours of the terminal's own palette, so that they suit dark and light ones.
#[derive(Clone, Copy)]
enum Ink {
    Bold,
    Dim,
    Green,
    Cyan,
    Yellow,
    Red,
}

impl Timeline {
    pub(super) fn start() -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            began: Instant::now(),
            colour,
            steps: 0,
            shown: 0,
        }
    }

    pub(super) fn head(&self) -> Result<(), DemoError> {
        let title =
            "A payments API that charges at every call, oncegate before it, a client that retries";
        self.print(&self.ink(Ink::Bold, title))?;
        self.print("")?;
        let columns = columns(
            "time",
            "client sends",
            "hears",
            "Idempotency-Status",
            "charge, problem",
            "",
        );
        self.print(&self.ink(Ink::Dim, &format!("{columns}  charges")))
    }

    /// The heading of a step.
    pub(super) fn step(&mut self, what: &str) -> Result<(), DemoError> {
        self.steps += 1;
        self.print("")?;
        self.print(&self.ink(Ink::Bold, &format!("{}. {what}", self.steps)))
    }

    /// One request and what was heard of it.
    pub(super) fn line(
        &mut self,
        payment: &Payment,
        whose: &str,
        heard: &Heard,
        note: &str,
        charges: usize,
    ) -> Result<(), DemoError> {
        self.shown += 1;
        let time = format!("{:.2}s", self.began.elapsed().as_secs_f64());
        let sent = format!("{}  {}  {whose}", payment.key, euros(payment.cents));
        let (status, word) = match heard {
            Heard::Answer(answer) => (
                answer.status.to_string(),
                answer.idempotency_status.as_str(),
            ),
            Heard::HungUp => ("---".to_owned(), "hung up"),
            Heard::Nothing => ("---".to_owned(), "connection lost"),
        };
        let ink = match word {
            "executed" => Ink::Green,
            "replayed" => Ink::Cyan,
            "refused" => Ink::Red,
            _ => Ink::Yellow,
        };
        let line = columns(&time, &sent, &status, word, &heard.gist(), note);
        // Colour comes after the columns are laid out: its codes have no width.
        let line = match line.split_once(word) {
            Some((before, after)) if !word.is_empty() => {
                format!("{before}{}{after}", self.ink(ink, word))
            }
            _ => line,
        };
        self.print(&format!(
            "{line}  {}",
            self.ink(Ink::Bold, &charges.to_string())
        ))
    }

    /// The end of a demo that went as it should.
    pub(super) fn promises_held(&self, requests: usize, charges: usize) -> Result<(), DemoError> {
        self.print("")?;
        let sum = self.ink(
            Ink::Bold,
            &format!("{requests} requests, {charges} charges"),
        );
        let shown = match self.shown {
            shown if shown == requests => String::new(),
            shown => format!(
                " ({shown} are shown; the others asked again meanwhile, and none was sent to the API)"
            ),
        };
        self.print(&format!("{sum}{shown}"))?;
        let held = "Every promise held: no payment was charged twice, and no answer was made up.";
        self.print(&self.ink(Ink::Green, held))
    }

    /// The end of a demo that did not.
    pub(super) fn promise_broken(&self, what: &str) -> Result<(), DemoError> {
        self.print("")?;
        self.print(&self.ink(Ink::Red, &format!("NOT AS PROMISED: {what}")))
    }

    /// What to try by hand.
    pub(super) fn invitation(
        &self,
        gateway: SocketAddr,
        admin: SocketAddr,
    ) -> Result<(), DemoError> {
        let pay = |key: &str, body: &str| {
            format!(
                "  curl -i http://{gateway}/v1/payments -H 'Authorization: Bearer me' \
                 -H 'Idempotency-Key: {key}' -d '{body}'"
            )
        };
        let lines = [
            String::new(),
            self.ink(Ink::Bold, "The gateway stays up until Ctrl-C. Try it:"),
            self.ink(Ink::Dim, "  # twice: the second one is replayed"),
            pay("mine-1", &format!("{{\"amount\":{AMOUNT_CENTS}}}")),
            self.ink(Ink::Dim, "  # another amount under the same key: refused"),
            pay("mine-1", "{\"amount\":1}"),
            self.ink(
                Ink::Dim,
                "  # charged, but answered too late: unknown, and 3 seconds later replayed",
            ),
            pay(
                "mine-2",
                &format!("{{\"amount\":{AMOUNT_CENTS},\"takes_ms\":3000}}"),
            ),
            self.ink(
                Ink::Dim,
                "  # how often the API has charged, and what the gateway has counted",
            ),
            format!("  curl http://{gateway}/v1/payments"),
            format!("  curl http://{admin}/metrics"),
            String::new(),
        ];
        lines.iter().try_for_each(|line| self.print(line))
    }

    /// A charge that a visitor made.
    pub(super) fn charged(&self, number: usize) -> Result<(), DemoError> {
        self.print(&format!(
            "{} ch_{number}",
            self.ink(Ink::Bold, "the API charged")
        ))
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Green => "32",
            Ink::Cyan => "36",
            Ink::Yellow => "33",
            Ink::Red => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn print(&self, line: &str) -> Result<(), DemoError> {
        writeln!(io::stdout().lock(), "{}", line.trim_end()).map_err(DemoError::Output)
    }
}

/// The longest note is what the last column is wide: keep notes within 34 characters.
fn columns(time: &str, sent: &str, status: &str, word: &str, gist: &str, note: &str) -> String {
    let arrow = if status == "hears" { " " } else { "→" };
    format!("{time:>6}  {sent:<22} {arrow} {status:<5}  {word:<18}  {gist:<16} {note:<34}")
}

fn euros(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
