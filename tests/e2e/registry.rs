//! A registry on loopback for tests: images of which each has its own trouble.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use base64::Engine;
use serde_json::Value;

use crate::net::lab::Ns;

/// Where it listens, on the loopback interface of its machine.
pub const ADDRESS: &str = "127.0.0.1:5000";
/// The one user it lets in.
pub const USER: (&str, &str) = ("me", "secret:word");

struct Image {
    manifest: Vec<u8>,
    digest: String,
    media: String,
    blobs: HashMap<String, Vec<u8>>,
}

/// The image of an OCI archive.
fn read(archive: &[u8]) -> Image {
    let mut files = HashMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(path, bytes);
    }
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let text = |pointer: &str| index.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let (digest, media) = (text("/manifests/0/digest"), text("/manifests/0/mediaType"));
    let blob = |path: &str| path.strip_prefix("blobs/sha256/").map(|hex| format!("sha256:{hex}"));
    let blobs: HashMap<String, Vec<u8>> = files.into_iter().filter_map(|(p, b)| Some((blob(&p)?, b))).collect();
    Image { manifest: blobs[&digest].clone(), digest, media, blobs }
}

/// The repositories, each with an image of its own: what a runtime has of one does not do for another.
const REPOSITORIES: [&str; 4] = ["open", "locked", "slow", "broken"];

/// Serves `open/web:v1` to all, `locked/web:v1` to [`USER`], `slow/web:v1` without ever giving a blob, and `broken/web:v1`
/// with blobs that are not what they should be. `archive` makes the image of a repository. Ends with the process.
pub fn serve(machine: &Ns, archive: impl Fn(&str) -> Vec<u8>) {
    let images = REPOSITORIES.map(|name| (name.to_owned(), read(&archive(name))));
    let images: Arc<HashMap<String, Image>> = Arc::new(images.into());
    let listener = machine.run(|| TcpListener::bind(ADDRESS).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let images = images.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while answer(&mut reader, &mut stream, &images).is_ok_and(|more| more) {}
            });
        }
    });
}

/// One request; false at the end of the connection.
fn answer(
    reader: &mut BufReader<TcpStream>,
    stream: &mut TcpStream,
    images: &HashMap<String, Image>,
) -> std::io::Result<bool> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", USER.0, USER.1));
    let known = lines.iter().any(|l| l.eq_ignore_ascii_case(&format!("authorization: Basic {basic}")));
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let mut reply = |status: &str, headers: &str, body: &[u8]| -> std::io::Result<bool> {
        write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len())?;
        if method != "HEAD" {
            stream.write_all(body)?;
        }
        Ok(true)
    };
    if rest.starts_with("locked/") && !known {
        let errors = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        return reply("401 Unauthorized", "www-authenticate: Basic realm=\"test\"\r\n", errors);
    }
    let (name, what) = rest.split_once("/web/").unwrap_or_default();
    let Some(image) = images.get(name) else {
        return match rest {
            "" => reply("200 OK", "", b"{}"),
            _ => reply("404 Not Found", "", br#"{"errors":[{"code":"NAME_UNKNOWN","message":"name unknown"}]}"#),
        };
    };
    if what == "manifests/v1" || what == format!("manifests/{}", image.digest) {
        let headers = format!("content-type: {}\r\ndocker-content-digest: {}\r\n", image.media, image.digest);
        return reply("200 OK", &headers, &image.manifest);
    }
    let kind = "content-type: application/octet-stream\r\n";
    match what.strip_prefix("blobs/").and_then(|digest| image.blobs.get(digest)) {
        Some(_) if name == "slow" => {
            std::thread::sleep(std::time::Duration::from_secs(3600));
            Ok(false)
        }
        Some(blob) if name == "broken" => reply("200 OK", kind, &blob.iter().rev().copied().collect::<Vec<u8>>()),
        Some(blob) => reply("200 OK", kind, blob),
        None => reply("404 Not Found", "", br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
    }
}
