//! What a scripted upstream does with one request.

use tokio::sync::watch;

use super::wire::chunk;

/// Something that a script waits for and that the test lets happen. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Opens it, for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Returns once it is open.
    pub async fn opened(&self) {
        let mut state = self.0.subscribe();
        // The sender lives in `self`: it cannot be gone while this waits.
        let _ = state.wait_for(|open| *open).await;
    }
}

/// One step of an [`Act`].
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes these bytes as they are.
    Write(Vec<u8>),
    /// Waits for the test.
    Wait(Gate),
    /// Tells the test that it has come so far.
    Open(Gate),
    /// Sends each piece of the request's body back as a chunk, as it comes.
    Echo,
    /// Does nothing until the other side closes.
    Hang,
    /// Ends the connection as it should be ended.
    Close,
    /// Breaks the connection: the other side sees a reset.
    Reset,
}

/// When an act begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// As soon as the first byte of a request is there; none is read, and nothing is counted.
    BeforeReading,
    /// After the head of the request; the body is left to the act.
    AfterHead,
    /// After the request's last byte: it has been received and counts as a charge.
    AfterReading,
}

/// What a scripted upstream does with one request: a beginning and some steps. After the last step the
/// connection is kept for the next request.
#[derive(Clone, Debug)]
pub struct Act {
    pub(super) begins: Begins,
    pub(super) steps: Vec<Step>,
}

impl Act {
    /// Answers with a `Content-Length`.
    pub fn respond(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, headers);
        if status != 204 {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Self::raw(bytes)
    }

    /// Writes these bytes as its answer, whatever they are.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::steps(Begins::AfterReading, vec![Step::Write(bytes.into())])
    }

    /// The head of a chunked answer; go on with [`Self::chunk`] and end with [`Self::last_chunk`].
    pub fn stream(status: u16, headers: &[(&str, &str)]) -> Self {
        let mut bytes = head(status, headers);
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        Self::raw(bytes)
    }

    /// A `text/event-stream`; its events are chunks.
    pub fn event_stream() -> Self {
        Self::stream(200, &[("Content-Type", "text/event-stream")])
    }

    /// Announces `length` bytes, sends only these and closes.
    pub fn truncate(status: u16, length: usize, sent: &[u8]) -> Self {
        let mut bytes = head(status, &[]);
        bytes.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
        bytes.extend(sent);
        Self::raw(bytes).then(Step::Close)
    }

    /// Reads the request and never answers.
    pub fn hang() -> Self {
        Self::steps(Begins::AfterReading, vec![Step::Hang])
    }

    /// Reads the request, then breaks the connection.
    pub fn reset_after_reading() -> Self {
        Self::steps(Begins::AfterReading, vec![Step::Reset])
    }

    /// Breaks the connection when the first bytes of a request are there, without reading them.
    pub fn reset_before_reading() -> Self {
        Self::steps(Begins::BeforeReading, vec![Step::Reset])
    }

    /// Answers 200 with the request's body, each piece as it comes. The request is not recorded.
    pub fn echo() -> Self {
        let mut act = Self::stream(200, &[]);
        act.begins = Begins::AfterHead;
        act.then(Step::Echo)
    }

    /// This act with its answer after the request's head, before the body is read.
    pub fn early(mut self) -> Self {
        self.begins = Begins::AfterHead;
        self
    }

    /// This act, begun only once the gate is open.
    pub fn after(mut self, gate: &Gate) -> Self {
        self.steps.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// Then waits for the gate.
    pub fn then_wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    /// Then opens the gate.
    pub fn then_open(self, gate: &Gate) -> Self {
        self.then(Step::Open(gate.clone()))
    }

    /// Then writes these bytes as they are.
    pub fn then_write(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Write(bytes.into()))
    }

    /// Then sends a chunk.
    pub fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Write(chunk(bytes.as_ref())))
    }

    /// Then ends a chunked answer.
    pub fn last_chunk(self) -> Self {
        self.then(Step::Write(b"0\r\n\r\n".to_vec()))
    }

    /// Then does this.
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Then closes the connection.
    pub fn then_close(self) -> Self {
        self.then(Step::Close)
    }

    /// Then breaks the connection.
    pub fn then_reset(self) -> Self {
        self.then(Step::Reset)
    }

    fn steps(begins: Begins, steps: Vec<Step>) -> Self {
        Self { begins, steps }
    }
}

fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.into_bytes()
}
