//! JSON bodies by their value: one text for every way to write the same value, and never one text for two values.
//!
//! The text is that of RFC 8785 (JCS), with one difference. RFC 8785 reads numbers as doubles and so makes one of
//! 9007199254740992 and 9007199254740993, and of any two amounts with more digits than a double holds. Two requests
//! that differ in an amount are not the same request, so here a number counts by its decimal value: the text is that
//! of RFC 8785 wherever the number is written with no more digits than its double needs, and otherwise it keeps its
//! digits. `-0` and `0`, and `1`, `1.0` and `1e0`, are one number in both.
//!
//! A body whose value different readers may see differently has no canonical text, see [`NotIJson`].

mod number;
mod pointer;
mod select;

use std::borrow::Cow;
use std::cmp::Ordering;

use json_event_parser::{JsonEvent, SliceJsonParser};

pub use pointer::{BadJsonPointer, JsonPointer};
pub use select::select;

/// How deep arrays and objects may be nested: as deep as `serde_json` reads them, and far beyond any request.
pub const DEPTH_MAX: usize = 128;

/// The canonical text of a body without what the pointers select, in UTF-8.
///
/// An ignored member is left out, and an ignored element of an array too; indices are those of the array as it was
/// sent. What is ignored must still be well-formed. Takes memory in proportion to the body, at most some twelve times
/// its size, and time in proportion to its size and depth.
///
/// # Errors
/// [`NotIJson`] where the body has no canonical text.
pub fn canonical(body: &[u8], ignore: &[JsonPointer]) -> Result<Vec<u8>, NotIJson> {
    // The parser skips a byte order mark, which RFC 7493 section 2.1 does not allow.
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(NotIJson::Syntax);
    }
    let mut parser = SliceJsonParser::new(body);
    let mut writer = Writer::new(body.len(), ignore);
    loop {
        match parser.parse_next().map_err(|_| NotIJson::Syntax)? {
            JsonEvent::StartArray => writer.open(None)?,
            JsonEvent::StartObject => writer.open(Some(Vec::new()))?,
            JsonEvent::ObjectKey(name) => writer.name(name),
            JsonEvent::EndArray | JsonEvent::EndObject => writer.close()?,
            JsonEvent::String(text) => writer.scalar(|out| write_string(out, &text))?,
            JsonEvent::Number(literal) => writer.scalar(|out| number::write(out, &literal))?,
            JsonEvent::Boolean(true) => writer.scalar(|out| write_literal(out, "true"))?,
            JsonEvent::Boolean(false) => writer.scalar(|out| write_literal(out, "false"))?,
            JsonEvent::Null => writer.scalar(|out| write_literal(out, "null"))?,
            JsonEvent::Eof => return Ok(writer.text),
        }
    }
}

/// Why a body has no canonical text: it is not what RFC 7493 (I-JSON) calls interoperable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotIJson {
    /// No JSON text in UTF-8: malformed, empty, with a byte order mark, with half of a surrogate pair, or followed
    /// by something.
    #[error("the body is not one JSON text in UTF-8")]
    Syntax,
    /// An object has two members of one name; readers disagree on which of them counts.
    #[error("an object in the body has two members of one name")]
    Duplicate,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("the body is nested too deeply")]
    TooDeep,
    /// An exponent beyond 64 bits.
    #[error("a number in the body has an exponent out of bounds")]
    Exponent,
}

/// Writes values as they are read. The members of an object are put in order when it ends, and an ignored value is
/// taken back when it ends, so that no tree of the body is ever held.
struct Writer<'body, 'rules> {
    text: Vec<u8>,
    ignore: &'rules [JsonPointer],
    /// The arrays and objects that are open, outermost first.
    open: Vec<Container<'body, 'rules>>,
}

/// An array or object that has begun.
struct Container<'body, 'rules> {
    /// Where the text after its opening bracket begins. Every value there is followed by a comma.
    begin: usize,
    /// Where the present member or element begins.
    item: usize,
    /// How many elements came before the present one.
    index: usize,
    /// Its members; none for an array.
    members: Option<Vec<Member<'body>>>,
    /// The pointers that lead into it.
    inside: Vec<&'rules JsonPointer>,
}

/// A member that was read.
struct Member<'body> {
    name: Cow<'body, str>,
    /// Its text, with the comma; empty where it is ignored.
    begin: usize,
    end: usize,
}

impl<'body, 'rules> Writer<'body, 'rules> {
    fn new(capacity: usize, ignore: &'rules [JsonPointer]) -> Self {
        Self {
            text: Vec::with_capacity(capacity),
            ignore,
            open: Vec::new(),
        }
    }

    fn scalar(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), NotIJson>,
    ) -> Result<(), NotIJson> {
        self.begin_value();
        write(&mut self.text)?;
        self.end_value();
        Ok(())
    }

    fn open(&mut self, members: Option<Vec<Member<'body>>>) -> Result<(), NotIJson> {
        if self.open.len() == DEPTH_MAX {
            return Err(NotIJson::TooDeep);
        }
        self.begin_value();
        let inside = self.inside();
        self.text.push(if members.is_some() { b'{' } else { b'[' });
        let begin = self.text.len();
        self.open.push(Container {
            begin,
            item: begin,
            index: 0,
            members,
            inside,
        });
        Ok(())
    }

    fn name(&mut self, name: Cow<'body, str>) {
        let begin = self.text.len();
        // A Vec takes whatever is written to it.
        let _ = write_string(&mut self.text, &name);
        self.text.push(b':');
        if let Some(Container {
            members: Some(members),
            item,
            ..
        }) = self.open.last_mut()
        {
            *item = begin;
            members.push(Member {
                name,
                begin,
                end: begin,
            });
        }
    }

    fn close(&mut self) -> Result<(), NotIJson> {
        let Some(container) = self.open.pop() else {
            return Err(NotIJson::Syntax);
        };
        let bracket = if container.members.is_some() {
            b'}'
        } else {
            b']'
        };
        if let Some(members) = container.members {
            self.order(container.begin, members)?;
        }
        match self
            .text
            .get_mut(container.begin..)
            .and_then(<[u8]>::last_mut)
        {
            Some(comma) => *comma = bracket,
            None => self.text.push(bracket),
        }
        self.end_value();
        Ok(())
    }

    /// Puts the members of an object, whose text begins at `begin`, in the order of their names.
    fn order(&mut self, begin: usize, mut members: Vec<Member<'body>>) -> Result<(), NotIJson> {
        let ascending = |a: &Member<'_>, b: &Member<'_>| by_utf16(&a.name, &b.name).is_lt();
        if members.is_sorted_by(ascending) {
            return Ok(());
        }
        members.sort_unstable_by(|a, b| by_utf16(&a.name, &b.name));
        if !members.is_sorted_by(ascending) {
            return Err(NotIJson::Duplicate);
        }
        let mut ordered = Vec::with_capacity(self.text.len() - begin);
        for member in &members {
            ordered.extend_from_slice(&self.text[member.begin..member.end]);
        }
        self.text.truncate(begin);
        self.text.extend_from_slice(&ordered);
        Ok(())
    }

    fn begin_value(&mut self) {
        if let Some(Container {
            members: None,
            item,
            ..
        }) = self.open.last_mut()
        {
            *item = self.text.len();
        }
    }

    /// The pointers that lead into the value that begins now, or select it.
    fn inside(&self) -> Vec<&'rules JsonPointer> {
        match self.open.last() {
            None => self.ignore.iter().collect(),
            Some(parent) => parent.selecting(self.open.len()).collect(),
        }
    }

    fn end_value(&mut self) {
        let depth = self.open.len();
        let Some(parent) = self.open.last_mut() else {
            return;
        };
        if parent
            .selecting(depth)
            .any(|pointer| pointer.tokens().len() == depth)
        {
            self.text.truncate(parent.item);
        } else {
            self.text.push(b',');
        }
        parent.index += 1;
        if let Some(member) = parent
            .members
            .as_mut()
            .and_then(|members| members.last_mut())
        {
            member.end = self.text.len();
        }
    }
}

impl<'rules> Container<'_, 'rules> {
    /// The pointers that lead through the present member or element of this container, which is the `depth`th.
    fn selecting(&self, depth: usize) -> impl Iterator<Item = &'rules JsonPointer> {
        self.inside.iter().copied().filter(move |pointer| {
            let Some(token) = pointer.tokens().get(depth - 1) else {
                return false;
            };
            match self.members.as_ref().map(|members| members.last()) {
                Some(member) => member.is_some_and(|member| member.name == token.as_str()),
                None => pointer::index(token) == Some(self.index),
            }
        })
    }
}

/// The order of RFC 8785 section 3.2.3: by UTF-16 code units.
fn by_utf16(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

fn write_literal(out: &mut Vec<u8>, literal: &str) -> Result<(), NotIJson> {
    out.extend_from_slice(literal.as_bytes());
    Ok(())
}

/// `serde_json` escapes exactly what RFC 8785 section 3.2.2.2 escapes, in the same way.
fn write_string(out: &mut Vec<u8>, text: &str) -> Result<(), NotIJson> {
    serde_json::to_writer(out, text).map_err(|_| NotIJson::Syntax)
}

#[cfg(test)]
mod tests;
