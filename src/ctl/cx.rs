//! What every verb has at hand: the connection, the namespace, the mapper, and the way errors are told.
//!
//! **Invariant:** the server's warnings are shown on stderr, each once.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Write as _;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, WARNING};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::fail::Failure;
use super::mapper::Mapper;
use crate::api::status::{Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{Client, Res, res};

/// A result of a verb.
pub type Done<T = ()> = Result<T, Failure>;

/// Items of one page of a list, where the user does not say.
pub const PAGE: u32 = 500;

const JSON: &str = "application/json";

/// One request.
#[derive(Debug)]
pub struct Call<'a> {
    method: Method,
    path: String,
    accept: &'a str,
    media: &'a str,
    body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    /// A request for `path`.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), accept: JSON, media: JSON, body: None }
    }

    /// Reads `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Asks for another form.
    pub fn accept(self, accept: &'a str) -> Self {
        Self { accept, ..self }
    }

    /// Sends JSON.
    pub fn body(self, body: &'a Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Sends a body of another type.
    pub fn media(self, media: &'a str) -> Self {
        Self { media, ..self }
    }

    /// Adds a parameter; an empty value is left out.
    pub fn query(mut self, key: &str, value: &str) -> Self {
        append_query(&mut self.path, key, value);
        self
    }
}

/// Adds `key=value` to a path; an empty value is left out.
pub fn append_query(path: &mut String, key: &str, value: &str) {
    if !value.is_empty() {
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(key);
        path.push('=');
        res::encode(path, value);
    }
}

/// The surroundings of a verb.
pub struct Cx {
    /// The connection.
    pub client: Client,
    /// The namespace to work in.
    pub ns: String,
    /// The address of the server.
    pub server: String,
    /// True when `-n` was given.
    pub ns_given: bool,
    mapper: OnceCell<Mapper>,
    failed: Cell<u8>,
    told: RefCell<Vec<(String, String)>>,
    chunk: Cell<u32>,
    warned: RefCell<HashSet<String>>,
}

impl Cx {
    /// Surroundings with a connection.
    pub fn new(client: Client, server: String, namespace: Option<String>) -> Self {
        // An empty one is none.
        let namespace = namespace.filter(|ns| !ns.is_empty());
        let ns_given = namespace.is_some();
        let ns = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Self {
            client,
            ns,
            server,
            ns_given,
            mapper: OnceCell::new(),
            failed: Cell::new(0),
            told: RefCell::new(Vec::new()),
            chunk: Cell::new(PAGE),
            warned: RefCell::new(HashSet::new()),
        }
    }

    /// The resources of the server; read when first asked for.
    pub async fn mapper(&self) -> Done<&Mapper> {
        self.mapper.get_or_try_init(|| Mapper::discover(self)).await
    }

    /// Sends a request and reads the JSON of the answer.
    pub async fn call(&self, call: Call<'_>) -> Done<Value> {
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::Plain(format!("the server's answer is not the JSON that was asked for: {e}")))
    }

    /// Sends a request and reads the answer whole.
    pub async fn bytes(&self, call: Call<'_>) -> Done<Bytes> {
        let mut headers = HeaderMap::new();
        let header = |text: &str| HeaderValue::from_str(text).map_err(|e| Failure::Plain(format!("{text:?}: {e}")));
        headers.insert(ACCEPT, header(call.accept)?);
        let body = match call.body {
            None => Bytes::new(),
            Some(value) => {
                headers.insert(CONTENT_TYPE, header(call.media)?);
                value.to_string().into()
            }
        };
        self.exchange(call.method, &call.path, headers, body).await
    }

    /// Sends bytes as they are, as `--raw` does.
    pub async fn raw(&self, method: Method, path: &str, body: Bytes) -> Done<Bytes> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        self.exchange(method, path, headers, body).await
    }

    async fn exchange(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Done<Bytes> {
        let answer = self.client.raw(method, path, headers, body).await.map_err(|e| self.unreachable(e))?;
        for warning in answer.headers().get_all(WARNING) {
            self.warn(warning.to_str().unwrap_or_default());
        }
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(refusal(answer.status(), answer.body()).into())
    }

    /// A server that nobody runs is told with its address.
    fn unreachable(&self, status: Box<Status>) -> Failure {
        if !status.message.contains("onnection refused") {
            return status.into();
        }
        let host = self.server.split("://").last().unwrap_or_default().trim_end_matches('/');
        Failure::Verbatim(format!(
            "The connection to the server {host} was refused - did you specify the right host or port?"
        ))
    }

    /// Shows a `Warning` header: `299 - "text"`.
    fn warn(&self, header: &str) {
        let text = warning_text(header);
        if self.warned.borrow_mut().insert(text.clone()) {
            eprintln!("Warning: {text}");
        }
    }

    /// One object. Where its namespace is what is missing, that is what is told.
    pub async fn get(&self, res: &Res, ns: &str, name: &str) -> Done<Value> {
        self.read(Call::get(res.object(ns, name, None)), ns).await
    }

    /// Reads an object of a namespace. Where the namespace is what is missing, that is what is told.
    pub async fn read(&self, call: Call<'_>, ns: &str) -> Done<Value> {
        match self.call(call).await {
            Err(failure) if failure.is_not_found() && !matches!(ns, "" | "default") => {
                match self.call(Call::get(res::NAMESPACES.object("", ns, None))).await {
                    Err(missing) if missing.is_not_found() => Err(missing),
                    _ => Err(failure),
                }
            }
            other => other,
        }
    }

    /// One object, or `None`.
    pub async fn find(&self, res: &Res, ns: &str, name: &str) -> Done<Option<Value>> {
        match self.call(Call::get(res.object(ns, name, None))).await {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The items of a collection; an empty `ns` means all.
    pub async fn items(&self, res: &Res, ns: &str, labels: &str, fields: &str) -> Done<Vec<Value>> {
        let mut path = res.collection(ns);
        append_query(&mut path, "labelSelector", labels);
        append_query(&mut path, "fieldSelector", fields);
        let (mut items, mut next) = (Vec::new(), String::new());
        let mut limit = Some(self.chunk.get()).filter(|n| *n > 0).map_or(String::new(), |n| n.to_string());
        loop {
            let call = Call::get(path.clone()).query("limit", &limit).query("continue", &next);
            let mut page = match self.call(call).await {
                // The pages took longer than the server keeps them: once more, all at once.
                Err(e) if !next.is_empty() && e.reason() == Some(Reason::Expired) => {
                    (items, next, limit) = (Vec::new(), String::new(), String::new());
                    continue;
                }
                page => page?,
            };
            next = page.str_at("/metadata/continue").unwrap_or_default().to_owned();
            items.append(&mut super::builder::items_of(&mut page));
            if next.is_empty() {
                return Ok(items);
            }
        }
    }

    /// Items of one page from now on; 0 asks for all at once.
    pub fn page_by(&self, items: u32) {
        self.chunk.set(items);
    }

    /// Keeps an error and goes on; it is told at the end, and the process will end with the code of the first.
    pub fn report(&self, failure: &Failure) {
        if !matches!(failure, Failure::Exit(_)) {
            self.told.borrow_mut().push((failure.to_string(), failure.among_others()));
        }
        if self.failed.get() == 0 {
            self.failed.set(failure.code());
        }
    }

    /// Ends with this code, whatever the errors told say.
    pub fn end_with(&self, code: u8) {
        self.failed.set(code);
    }

    /// Tells what was reported, as kubectl does: one error begins with `error:`, several do not.
    pub fn tell(&self) {
        let told = self.told.take();
        match &told[..] {
            [(alone, _)] => eprintln!("{alone}"),
            several => several.iter().for_each(|(_, text)| eprintln!("{text}")),
        }
    }

    /// How many warnings the server gave.
    pub fn warnings(&self) -> usize {
        self.warned.borrow().len()
    }

    /// The code to end with: that of the first error that was told.
    pub fn code(&self) -> u8 {
        self.failed.get()
    }
}

/// The text of a `Warning` header.
fn warning_text(header: &str) -> String {
    let quoted = header.splitn(3, ' ').nth(2).unwrap_or(header);
    let inner = quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(quoted);
    inner.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// The Status of an answer that is no success.
fn refusal(code: StatusCode, body: &[u8]) -> Box<Status> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value["kind"] == "Status" => Status::from_value(&value, code.as_u16()),
        _ => {
            let text = String::from_utf8_lossy(body);
            let reason = match code.as_u16() {
                401 => Reason::Unauthorized,
                403 => Reason::Forbidden,
                404 => {
                    return Status::new(Reason::NotFound, "the server could not find the requested resource");
                }
                503 => Reason::ServiceUnavailable,
                _ => Reason::Unknown,
            };
            Status::new(reason, format!("the server answered {code}: {}", text.trim()))
        }
    }
}

/// Writes to stdout. A reader that went away ends the command, quietly.
pub fn put(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Exit(0)),
        Err(e) => Err(e.into()),
    }
}

/// Writes a line to stdout.
pub fn say(line: impl AsRef<str>) -> Done {
    put(&format!("{}\n", line.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_lose_their_quotes_and_nothing_else() {
        assert_eq!(warning_text(r#"299 - "unknown field \"spec.foo\"""#), r#"unknown field "spec.foo""#);
        assert_eq!(warning_text("299 - \"plain\""), "plain");
    }
}
