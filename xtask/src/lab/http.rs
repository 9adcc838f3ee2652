//! One request over HTTP, on whatever stream.

use std::io::{Read, Write};

use anyhow::{Context as _, Result};

/// What was answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The lines of its head, in small letters.
    pub head: Vec<String>,
    /// What follows it.
    pub body: String,
}

impl Response {
    /// A field of the head.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.iter().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

/// Asks for a path. `fields` are further lines of the head.
pub fn ask(mut stream: impl Read + Write, method: &str, path: &str, fields: &[&str]) -> Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n");
    for field in fields {
        head += field;
        head += "\r\n";
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).context("cannot send a request")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("cannot read an answer")?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no answer of HTTP: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let head: Vec<String> = head.lines().map(str::to_lowercase).collect();
    let response = Response { status, head, body: body.to_owned() };
    if response.field("transfer-encoding") == Some("chunked") {
        return Ok(Response { body: joined(&response.body)?, ..response });
    }
    Ok(response)
}

/// The chunks of a body, without their lengths (RFC 9112 section 7.1).
fn joined(mut chunks: &str) -> Result<String> {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).context("cannot read the length of a chunk")?;
        body += rest.get(..length).context("a chunk is cut short")?;
        chunks = rest.get(length + 2..).unwrap_or_default();
    }
    Ok(body)
}

/// Text as it may stand in a query.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}
