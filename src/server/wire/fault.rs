//! What can be wrong with an HTTP/1 message on the wire.

/// A rule that an HTTP/1 message breaks, as a sentence for whoever wrote the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// RFC 9112, section 2.2.
    #[error("Lines end with CR LF, and neither of the two stands alone.")]
    LineEnding,
    /// RFC 9112, section 3.
    #[error("The request line is a method, a target and a version with one space between them.")]
    RequestLine,
    /// Not even a method: perhaps TLS, or what an earlier message's length has left over.
    #[error("This is no HTTP request: a method in upper case comes first.")]
    Method,
    /// RFC 9112, section 3.2.3.
    #[error("This is no tunnel.")]
    Connect,
    /// RFC 9112, section 2.3.
    #[error("The version is neither HTTP/1.1 nor HTTP/1.0.")]
    Version,
    /// RFC 3986, section 2.
    #[error("The target holds a character that has to be percent-encoded.")]
    TargetCharacter,
    /// RFC 9112, section 3.2.
    #[error("The target has a fragment, which is not sent.")]
    TargetFragment,
    /// RFC 9112, section 3.2.
    #[error("The target is a path or an http URL, or * for OPTIONS.")]
    TargetForm,
    /// RFC 9110, section 4.2.4.
    #[error("The target does not name a plain host.")]
    TargetHost,
    /// RFC 9112, section 5.2.
    #[error("A header line is folded.")]
    FoldedLine,
    /// RFC 9112, section 5.1.
    #[error("A header line is a name, a colon right behind it, and a value.")]
    FieldName,
    /// RFC 9110, section 5.5.
    #[error("A header's value holds a control character.")]
    FieldValue,
    /// RFC 9110, section 8.6.
    #[error("Content-Length is a number of digits alone.")]
    LengthNumber,
    /// RFC 9112, section 6.3.
    #[error("There is more than one Content-Length.")]
    Lengths,
    /// RFC 9112, section 6.1.
    #[error("There is a Content-Length beside a Transfer-Encoding.")]
    LengthBesideCoding,
    /// RFC 9112, section 6.1.
    #[error("The only Transfer-Encoding is chunked, once.")]
    Coding,
    /// RFC 9112, section 6.1.
    #[error("HTTP/1.0 has no Transfer-Encoding.")]
    CodingInOldVersion,
    /// More than 64 KiB.
    #[error("The head of the request is larger than 64 KiB.")]
    HeadSize,
    /// More than 100; over HTTP/2, too.
    #[error("The head of the request has more than 100 lines.")]
    HeadLines,
    /// RFC 9112, section 7.1.
    #[error("A chunk's size is hexadecimal digits, no more than 15.")]
    ChunkSize,
    /// RFC 9112, section 7.1.1.
    #[error("A chunk's extensions are visible characters without spaces, 4 KiB in all.")]
    ChunkExtension,
    /// RFC 9112, section 7.1.
    #[error("A chunk does not end where its size says.")]
    ChunkEnd,
    /// RFC 9110, section 6.5.1.
    #[error("A trailer names what is said in the head: framing, host or credentials.")]
    TrailerName,
    /// More than 8 KiB, or more than 100 lines.
    #[error("The trailers are larger than 8 KiB, or more than 100 lines.")]
    TrailersSize,
}

impl Fault {
    /// Whether the head was not even read to its end, because it is too large.
    #[must_use]
    pub fn is_too_large(self) -> bool {
        matches!(self, Self::HeadSize | Self::HeadLines)
    }
}
