//! Kustomizations: a directory that says what to read, generate and change, built to objects.
//!
//! In: a directory with `kustomization.yaml`. Out: objects, in the order in which they can be applied.
//! Flow: [`load`] → [`generate`] → components → [`transform`] with [`patch`] → [`refs`] (what was renamed is renamed where it
//! is named) → content hashes → order.
//!
//! **Invariant:** references are brought up to date at every level, so that a base that is used twice stays two.
//!
//! Rules: upstream `sigs.k8s.io/kustomize/api/internal/target`.

mod fields;
mod generate;
mod load;
mod order;
mod patch;
mod refs;
mod transform;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cx::{Done, put};
use super::fail::fail;
use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use load::Kustomization;

/// Kustomizations below each other. A base that names itself is found by this, too.
const MAX_DEPTH: usize = 32;

/// Build a set of objects from a kustomization
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The directory of the kustomization
    #[arg(default_value = ".", hide_default_value = true)]
    dir: String,
    /// Write to this file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// LoadRestrictionsNone lets files lie outside of the directory
    #[arg(long, default_value = "LoadRestrictionsRootOnly", hide_default_value = true)]
    load_restrictor: String,
}

/// Runs the verb.
pub fn run(args: &Args) -> Done {
    let anywhere = match args.load_restrictor.as_str() {
        "LoadRestrictionsRootOnly" => false,
        "LoadRestrictionsNone" => true,
        other => fail!(
            "illegal flag value --load-restrictor {other}; legal values: [LoadRestrictionsRootOnly LoadRestrictionsNone]"
        ),
    };
    let objects = build(Path::new(&args.dir), anywhere)?;
    let text = objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n");
    match &args.output {
        Some(path) => Ok(std::fs::write(path, text)?),
        None => put(&text),
    }
}

/// An object on its way, with the names that it had.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// As it is now.
    pub object: Value,
    /// Names that it had, the first one first.
    pub names: Vec<String>,
    /// Namespaces that it had.
    pub namespaces: Vec<String>,
    /// True when a hash of the content shall end its name.
    pub hashed: bool,
}

impl Resource {
    /// An object that was just read.
    pub fn new(object: Value) -> Self {
        Self { object, names: Vec::new(), namespaces: Vec::new(), hashed: false }
    }

    /// Its kind.
    pub fn kind(&self) -> &str {
        self.object.str_at("/kind").unwrap_or_default()
    }

    /// Its group and version.
    pub fn api_version(&self) -> &str {
        self.object.str_at("/apiVersion").unwrap_or_default()
    }

    /// Its name now.
    pub fn name(&self) -> &str {
        self.object.str_at("/metadata/name").unwrap_or_default()
    }

    /// Its namespace now; objects without one are in `default`.
    pub fn namespace(&self) -> &str {
        self.object.str_at("/metadata/namespace").filter(|ns| !ns.is_empty()).unwrap_or("default")
    }

    /// True for a name that it has or had.
    pub fn is_called(&self, name: &str) -> bool {
        self.name() == name || self.names.iter().any(|n| n == name)
    }

    /// True for a namespace that it is or was in.
    pub fn is_in(&self, ns: &str) -> bool {
        self.namespace() == ns || self.namespaces.iter().any(|n| n == ns)
    }

    /// Gives it another name, and keeps the old one.
    pub fn rename(&mut self, name: String) {
        let old = self.name().to_owned();
        if old != name {
            self.names.push(old);
            self.object.set_at("/metadata/name", name);
        }
    }

    /// Moves it to a namespace, and keeps the old one.
    pub fn move_to(&mut self, ns: &str) {
        let old = self.namespace().to_owned();
        if old != ns {
            self.namespaces.push(old);
        }
        self.object.set_at("/metadata/namespace", ns);
    }
}

/// The objects of a directory. `anywhere` lets files lie outside of it.
pub fn build(dir: &Path, anywhere: bool) -> Done<Vec<Value>> {
    let mut all = Vec::new();
    level(dir, anywhere, 0, &mut all)?;
    let before = refs::Names::of(&all);
    for resource in all.iter_mut().filter(|r| r.hashed) {
        let name = super::create::hashed_name(&resource.object);
        resource.rename(name);
    }
    refs::follow(&mut all, &before);
    if Kustomization::read(dir, anywhere)?.fields["sortOptions"]["order"] != "fifo" {
        order::sort(&mut all);
    }
    Ok(all.into_iter().map(|r| r.object).collect())
}

/// Adds what one kustomization gives; a component changes what is there already.
fn level(dir: &Path, anywhere: bool, depth: usize, into: &mut Vec<Resource>) -> Done {
    if depth > MAX_DEPTH {
        fail!("{}: kustomizations are nested more than {MAX_DEPTH} deep", dir.display());
    }
    let kustomization = Kustomization::read(dir, anywhere)?;
    let mut own = if kustomization.is_component() { std::mem::take(into) } else { Vec::new() };
    for entry in kustomization.resources() {
        match kustomization.entry(entry)? {
            load::Entry::Dir(dir) => {
                let mut below = Vec::new();
                level(&dir, anywhere, depth + 1, &mut below)?;
                below.into_iter().try_for_each(|r| add(&mut own, r))?;
            }
            load::Entry::File(objects) => {
                objects.into_iter().try_for_each(|object| add(&mut own, Resource::new(object)))?;
            }
        }
    }
    generate::run(&kustomization, &mut own)?;
    for component in kustomization.strings("components") {
        level(&kustomization.dir_of(&component)?, anywhere, depth + 1, &mut own)?;
    }
    let before = refs::Names::of(&own);
    patch::merges(&kustomization, &mut own)?;
    transform::run(&kustomization, &mut own)?;
    refs::follow(&mut own, &before);
    if kustomization.is_component() {
        *into = own;
        return Ok(());
    }
    own.into_iter().try_for_each(|r| add(into, r))
}

/// Adds an object that is not there yet.
fn add(all: &mut Vec<Resource>, resource: Resource) -> Done {
    let same = |r: &Resource| {
        (r.kind(), r.api_version(), r.name(), r.namespace())
            == (resource.kind(), resource.api_version(), resource.name(), resource.namespace())
    };
    if all.iter().any(same) {
        fail!(
            "may not add resource with an already registered id: {}.{}/{}.{}",
            resource.kind(),
            resource.api_version().replace('/', "."),
            resource.name(),
            resource.object.str_at("/metadata/namespace").unwrap_or("[noNs]")
        );
    }
    all.push(resource);
    Ok(())
}

#[cfg(test)]
mod tests;
