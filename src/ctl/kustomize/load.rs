//! Reading a kustomization and the files that it names.
//!
//! **Invariant:** a file lies in the kustomization's directory or below, as upstream has it, unless the user says otherwise.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::ctl::cx::Done;
use crate::ctl::fail::{Failure, fail, os};
use crate::ctl::files::is_url;

/// Names that a kustomization's file has.
const FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// What is understood. Anything else is refused by its name, never left out in silence.
const FIELDS: [&str; 24] = [
    "apiVersion",
    "kind",
    "metadata",
    "resources",
    "bases",
    "components",
    "namePrefix",
    "nameSuffix",
    "namespace",
    "labels",
    "commonLabels",
    "commonAnnotations",
    "images",
    "replicas",
    "configMapGenerator",
    "secretGenerator",
    "generatorOptions",
    "patches",
    "patchesStrategicMerge",
    "patchesJson6902",
    "sortOptions",
    "buildMetadata",
    "openapi",
    "configurations",
];
/// Fields of those that may stand there only when they are empty.
const NOT_BUILT: [&str; 3] = ["buildMetadata", "openapi", "configurations"];

/// A kustomization and where it lies.
#[derive(Debug)]
pub struct Kustomization {
    dir: PathBuf,
    anywhere: bool,
    /// Its content.
    pub fields: Value,
}

/// What an entry of `resources` is.
#[derive(Debug)]
pub enum Entry {
    /// Another kustomization.
    Dir(PathBuf),
    /// Objects.
    File(Vec<Value>),
}

impl Kustomization {
    /// Reads the one of a directory.
    pub fn read(dir: &Path, anywhere: bool) -> Done<Self> {
        let shown = dir.display();
        let dir = dir.canonicalize().map_err(|e| {
            Failure::Plain(format!("must build at directory: not a valid directory: {shown}: {}", os(&e)))
        })?;
        let found: Vec<PathBuf> = FILES.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
        let file = match &found[..] {
            [one] => one,
            [] => fail!(
                "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'",
                dir.display()
            ),
            _ => fail!("Found multiple kustomization files under: {}\n", dir.display()),
        };
        let text = std::fs::read(file).map_err(|e| Failure::Plain(format!("open {}: {}", file.display(), os(&e))))?;
        let fields = yaml::parse(&text)
            .map_err(|e| Failure::Plain(format!("invalid Kustomization: {}: {e}", file.display())))?;
        let Some(map) = fields.as_object() else { fail!("kustomization.yaml is empty") };
        for (key, value) in map {
            let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !FIELDS.contains(&key.as_str()) || (NOT_BUILT.contains(&key.as_str()) && !empty) {
                fail!("invalid Kustomization: {}: the field {key:?} is unknown here", file.display());
            }
        }
        Ok(Self { dir, anywhere, fields })
    }

    /// True for a component, which changes what the kustomization that names it has.
    pub fn is_component(&self) -> bool {
        self.fields["kind"] == "Component"
    }

    /// Strings of a list.
    pub fn strings(&self, field: &str) -> Vec<String> {
        let items = self.fields.get(field).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Items of a list.
    pub fn items(&self, field: &str) -> &[Value] {
        self.fields.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// What it builds on, in order.
    pub fn resources(&self) -> Vec<String> {
        [self.strings("resources"), self.strings("bases")].concat()
    }

    /// A directory that it names.
    pub fn dir_of(&self, entry: &str) -> Done<PathBuf> {
        let path = self.dir.join(entry);
        if is_url(entry) || !path.is_dir() {
            fail!("accumulating components: '{entry}' is no directory; remote ones are not fetched");
        }
        Ok(path)
    }

    /// What an entry of `resources` is.
    pub fn entry(&self, entry: String) -> Done<Entry> {
        if self.dir.join(&entry).is_dir() {
            return self.dir_of(&entry).map(Entry::Dir);
        }
        if is_url(&entry) || (entry.contains("//") && !self.dir.join(&entry).exists()) {
            fail!("accumulating resources: {entry:?}: remote resources are not fetched; give a file or a directory");
        }
        let text = self.text(&entry)?;
        let of = |e: String| {
            Failure::Plain(format!(
                "accumulating resources: accumulation err='accumulating resources from '{entry}': {e}'"
            ))
        };
        let objects = yaml::parse_all_strict(&text).map_err(|e| of(e.to_string()))?;
        let mut all = Vec::new();
        for mut object in objects.into_iter().filter(|o| !o.is_null()) {
            if object.str_at("/kind").is_some_and(|k| k.ends_with("List")) && object["items"].is_array() {
                all.extend(crate::ctl::builder::items_of(&mut object));
                continue;
            }
            let missing = |path: &str| object.str_at(path).is_none_or(str::is_empty);
            if missing("/kind") {
                return Err(of("missing Resource metadata: kind".into()));
            }
            if missing("/metadata/name") {
                return Err(of("missing metadata.name in object".into()));
            }
            all.push(object);
        }
        Ok(Entry::File(all))
    }

    /// Bytes of a file.
    pub fn bytes(&self, name: &str) -> Done<Vec<u8>> {
        let bad = |e: std::io::Error| Failure::Plain(format!("{}: {}", self.dir.join(name).display(), os(&e)));
        let path = self.dir.join(name).canonicalize().map_err(bad)?;
        if !self.anywhere && !path.starts_with(&self.dir) {
            fail!("security; file '{}' is not in or below '{}'", path.display(), self.dir.display());
        }
        std::fs::read(&path).map_err(bad)
    }

    /// Text of a file.
    pub fn text(&self, name: &str) -> Done<String> {
        String::from_utf8(self.bytes(name)?).map_err(|_| Failure::Plain(format!("{name} is no text")))
    }
}
