//! Files of a directory, as Go's `http.FileServer` serves them: `index.html` for a directory that has one, else a list.
//!
//! **Invariant:** a file streams; it is never held whole.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio_util::io::ReaderStream;
use tower::BoxError;

use super::forward::{Answer, plain, redirect, whole};
use super::route::encoded;

/// Types of what a web page is made of.
const TYPES: [(&str, &str); 16] = [
    ("css", "text/css; charset=utf-8"),
    ("gif", "image/gif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webp", "image/webp"),
    ("xml", "text/xml; charset=utf-8"),
];
const UNKNOWN: &str = "application/octet-stream";
const HTML: &str = "text/html; charset=utf-8";

/// The file at `path` below `base`.
pub async fn answer(base: Option<&Path>, method: &Method, path: &str) -> Answer {
    let missing = || plain(StatusCode::NOT_FOUND, "404 page not found");
    let Some(place) = base.and_then(|base| below(base, path)) else { return missing() };
    if path == "index.html" || path.ends_with("/index.html") {
        return redirect("./");
    }
    let Ok(found) = tokio::fs::metadata(&place).await else { return missing() };
    match (found.is_dir(), path.is_empty() || path.ends_with('/')) {
        (true, false) => redirect(&format!("{}/", encoded(path.rsplit('/').next().unwrap_or_default()))),
        (false, true) => {
            redirect(&format!("../{}", encoded(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default())))
        }
        (false, false) => file(&place, method).await.unwrap_or_else(missing),
        (true, true) => match file(&place.join("index.html"), method).await {
            Some(page) => page,
            None => list(&place).await.unwrap_or_else(missing),
        },
    }
}

/// The path below a directory; `None` where it would leave it.
fn below(base: &Path, path: &str) -> Option<PathBuf> {
    let fine = |segment: &str| segment != ".." && !segment.contains('\0');
    path.split('/').all(fine).then(|| base.join(path.trim_matches('/')))
}

async fn file(path: &Path, method: &Method) -> Option<Answer> {
    let file = tokio::fs::File::open(path).await.ok()?;
    let found = file.metadata().await.ok().filter(std::fs::Metadata::is_file)?;
    let frames = ReaderStream::new(file).map_ok(Frame::data).map_err(BoxError::from);
    let body = if method == Method::HEAD { whole(Bytes::new()) } else { StreamBody::new(frames).boxed_unsync() };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_LENGTH, found.len().into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media(path)));
    Some(answer)
}

fn media(path: &Path) -> &'static str {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    TYPES.iter().find(|(known, _)| *known == ending).map_or(UNKNOWN, |(_, media)| media)
}

async fn list(path: &Path) -> Option<Answer> {
    let mut entries = tokio::fs::read_dir(path).await.ok()?;
    let mut names = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let slash = if entry.file_type().await.is_ok_and(|t| t.is_dir()) { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort_unstable();
    let mut answer = Response::new(whole(page(&names).into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
    Some(answer)
}

/// A page of links.
fn page(names: &[String]) -> String {
    let escape =
        |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let links: String = names.iter().map(|n| format!("<a href=\"{}\">{}</a>\n", encoded(n), escape(n))).collect();
    format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{links}</pre>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::LOCATION;
    use test_case::test_case;

    #[test_case("a.txt", 200, "hi", ""; "a file")]
    #[test_case("sub/", 200, "<p>", ""; "an index")]
    #[test_case("", 200, "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"a.txt\">a.txt</a>\n<a href=\"b%26.txt\">b&amp;.txt</a>\n<a href=\"sub/\">sub/</a>\n</pre>\n", ""; "a list")]
    #[test_case("sub", 301, "", "sub/"; "a directory")]
    #[test_case("sub/index.html", 301, "", "./"; "an index by its name")]
    #[test_case("a.txt/", 301, "", "../a.txt"; "a file taken for a directory")]
    #[test_case("nope", 404, "404 page not found\n", ""; "nothing")]
    #[test_case("../out.txt", 404, "404 page not found\n", ""; "above")]
    #[tokio::test]
    async fn files(path: &str, code: u16, body: &str, location: &str) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("www");
        std::fs::create_dir_all(base.join("sub")).unwrap();
        for (name, text) in
            [("www/a.txt", "hi"), ("www/b&.txt", ""), ("www/sub/index.html", "<p>"), ("out.txt", "secret")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let answer = answer(Some(&base), &Method::GET, path).await;
        assert_eq!(answer.status(), code);
        assert_eq!(answer.headers().get(LOCATION).map_or("", |l| l.to_str().unwrap()), location);
        let got = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&got), body);
    }

    #[test]
    fn types_go_by_endings() {
        assert_eq!(media(Path::new("x.HTML")), HTML);
        assert_eq!(media(Path::new("x")), UNKNOWN);
    }
}
