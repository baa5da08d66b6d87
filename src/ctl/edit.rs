//! `edit`: the object in the user's editor, and what was changed sent as a patch.
//!
//! [`once`] is the editor alone, [`until_accepted`] asks again while the server refuses; other verbs use them too.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::builder::{Info, Query, Wanted, parse};
use super::cx::{Call, Cx, Done, say};
use super::fail::{Failure, NOTHING_NAMED, fail};
use super::files::FileFlags;
use super::print::{Output, PrintFlags, json_text, omit_managed_fields};
use super::write::{ValidateFlag, WriteFlags, Writer, difference, with_saved_config};
use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::util::files;

/// Edit a resource in $KUBE_EDITOR or $EDITOR
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    print: PrintFlags,
    #[command(flatten)]
    write: WriteFlags,
    #[command(flatten)]
    validate: ValidateFlag,
    /// Edit a subresource
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Show the patch that is sent
    #[arg(long)]
    output_patch: bool,
    /// Keep what was written for a later apply
    #[arg(long)]
    save_config: bool,
    /// End lines as Windows does
    #[arg(long)]
    windows_line_endings: bool,
}

const HEADER: &str = "# Edit the object below. Lines that begin with '#' are dropped; an empty file gives up.\n\
                      # When the server refuses the change, the editor opens again with its reason.\n#\n";
const UNCHANGED: &str = "Edit cancelled, no changes made.";
const EMPTY: &str = "Edit cancelled, saved file was empty.";

/// What came back from the editor.
#[derive(Debug, PartialEq, Eq)]
pub enum Edited {
    /// What went in.
    Same,
    /// Nothing.
    Empty,
    /// Another text, without comments.
    Changed(String),
}

/// Opens the editor with a text, below what was wrong with it before.
pub fn once(text: &str, reason: &str) -> Done<Edited> {
    let reason: String = reason.lines().map(|l| format!("# {l}\n")).collect();
    let body = without_comments(&in_editor(&format!("{HEADER}{reason}{text}"))?);
    Ok(match body {
        body if body.trim().is_empty() => Edited::Empty,
        body if body == without_comments(text) => Edited::Same,
        body => Edited::Changed(body),
    })
}

/// Opens the editor until `accept` takes what was written, and gives what it made of it. What it refuses stands in the
/// editor again, below the reason. `None` where there is nothing to do, which is told.
pub async fn until_accepted<T>(mut text: String, accept: impl AsyncFn(Value) -> Done<Option<T>>) -> Done<Option<T>> {
    let mut reason = String::new();
    loop {
        let edited = match once(&text, &reason)? {
            // The user gave up: the same text was refused before.
            Edited::Same if !reason.is_empty() => {
                eprintln!("A copy of your changes has been stored to {:?}", preserved(&text)?.display().to_string());
                fail!("Edit cancelled, no valid changes were saved.");
            }
            Edited::Same => {
                eprintln!("{UNCHANGED}");
                return Ok(None);
            }
            Edited::Empty => {
                eprintln!("{EMPTY}");
                return Ok(None);
            }
            Edited::Changed(edited) => edited,
        };
        let tried = match yaml::parse(edited.as_bytes()) {
            Err(e) => Err(Failure::Plain(e.to_string())),
            Ok(wanted) => accept(wanted).await,
        };
        match tried {
            Ok(None) => {
                eprintln!("{UNCHANGED}");
                return Ok(None);
            }
            Ok(made) => return Ok(made),
            Err(failure) => (reason, text) = (format!("{failure}\n\n"), edited),
        }
    }
}

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.resources.is_empty() && args.files.is_empty() {
        fail!("{NOTHING_NAMED}");
    }
    let query = Query {
        args: &args.resources,
        files: Some(&args.files),
        all: args.files.is_empty() && matches!(parse(&args.resources)?, Wanted::Types(_)),
        fetch: true,
        ..Query::default()
    };
    for info in query.infos(cx).await? {
        if let Err(failure) = one(cx, &info, &args).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

/// The object as it is edited.
async fn shown(cx: &Cx, info: &Info, args: &Args) -> Done<Value> {
    let mut object = match args.subresource.as_str() {
        "" => info.object.clone(),
        sub => cx.call(Call::get(info.path(Some(sub)))).await?,
    };
    if !args.print.show_managed_fields {
        omit_managed_fields(&mut object);
    }
    Ok(object)
}

async fn one(cx: &Cx, info: &Info, args: &Args) -> Done {
    let writer = Writer { validation: args.validate.validate, ..args.write.writer("kubectl-edit") };
    let before = shown(cx, info, args).await?;
    let as_json = matches!(args.print.output()?, Output::Json);
    let mut text = if as_json { json_text(&before) } else { yaml::to_string(&before) };
    if args.windows_line_endings {
        text = text.replace('\n', "\r\n");
    }
    let accept = async |wanted: Value| send(cx, info, &before, &wanted, &writer, args).await;
    match until_accepted(text, accept).await? {
        Some(object) => args.print.done(&info.resource, &object, "edited", writer.dry_run),
        None => Ok(()),
    }
}

async fn send(
    cx: &Cx,
    info: &Info,
    before: &Value,
    wanted: &Value,
    writer: &Writer,
    args: &Args,
) -> Done<Option<Value>> {
    for path in ["/metadata/name", "/metadata/namespace", "/apiVersion", "/kind"] {
        if wanted.get_at(path) != before.get_at(path) {
            fail!("{} may not be changed", path.trim_start_matches('/').replace('/', "."));
        }
    }
    let wanted = if args.save_config { with_saved_config(wanted) } else { wanted.clone() };
    let (media, patch) = difference(before, &wanted, before);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(None);
    }
    if args.output_patch {
        say(format!("Patch: {patch}"))?;
    }
    let sub = Some(args.subresource.as_str()).filter(|s| !s.is_empty());
    writer.patch(cx, info, sub, media, &patch).await.map(Some)
}

/// The lines that the user did not write are dropped.
fn without_comments(text: &str) -> String {
    text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect()
}

/// Writes a text to a file that only the user can read.
fn preserved(text: &str) -> Done<PathBuf> {
    let path = std::env::temp_dir().join(format!("orch-edit-{}.yaml", uuid::Uuid::new_v4()));
    files::write_atomic(&path, text.as_bytes(), files::SECRET_MODE)
        .map_err(|e| Failure::Plain(format!("cannot write {}: {e}", path.display())))?;
    Ok(path)
}

fn in_editor(text: &str) -> Done<String> {
    let editor = ["KUBE_EDITOR", "EDITOR"].iter().find_map(|v| std::env::var(v).ok().filter(|e| !e.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let path = preserved(text)?;
    // The shell splits an editor with flags; the file's name is passed beside it, not through it.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&path).status();
    let edited = std::fs::read_to_string(&path);
    let _ = std::fs::remove_file(&path);
    match status {
        Ok(status) if status.success() => Ok(edited?),
        Ok(_) => fail!("there was a problem with the editor {editor:?}"),
        Err(e) => fail!("unable to launch the editor {editor:?}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_dropped() {
        assert_eq!(without_comments("# x\na: 1\n# y\nb: \"#\"\n"), "a: 1\nb: \"#\"\n");
    }
}
