//! `edit`: the object in the user's editor, and what was changed sent as a patch.

use std::process::Command;

use serde_json::Value;

use super::builder::{Info, Query};
use super::cx::{Cx, Done};
use super::fail::{Failure, NOTHING_NAMED, fail};
use super::files::FileFlags;
use super::print::{PrintFlags, omit_managed_fields};
use super::write::WriteFlags;
use crate::api::codec::yaml;
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
}

const HEADER: &str = "# Edit the object below. Lines that begin with '#' are dropped; an empty file gives up.\n\
                      # When the server refuses the change, the editor opens again with its reason.\n#\n";

/// Runs the verb.
pub async fn run(cx: &Cx, args: Args) -> Done {
    if args.resources.is_empty() && args.files.is_empty() {
        fail!("{NOTHING_NAMED}");
    }
    let query = Query { args: &args.resources, files: Some(&args.files), fetch: true, ..Query::default() };
    for info in query.infos(cx).await? {
        if let Err(failure) = one(cx, &info, &args).await {
            cx.report(&failure);
        }
    }
    Ok(())
}

async fn one(cx: &Cx, info: &Info, args: &Args) -> Done {
    let writer = args.write.writer("kubectl-edit");
    let mut shown = info.object.clone();
    if !args.print.show_managed_fields {
        omit_managed_fields(&mut shown);
    }
    let original = yaml::to_string(&shown);
    let mut text = format!("{HEADER}{original}");
    loop {
        let edited = in_editor(&text)?;
        let body = without_header(&edited);
        if body.trim().is_empty() {
            eprintln!("Edit cancelled, saved file was empty.");
            return Ok(());
        }
        if edited == text || body == original {
            eprintln!("Edit cancelled, no changes made.");
            return Ok(());
        }
        let tried = match yaml::parse(body.as_bytes()) {
            Err(e) => Err(Failure::Plain(e.to_string())),
            Ok(wanted) => send(cx, info, &shown, &wanted, &writer).await,
        };
        match tried {
            Ok(None) => {
                eprintln!("Edit cancelled, no changes made.");
                return Ok(());
            }
            Ok(Some(object)) => return args.print.done(&info.resource, &object, "edited", writer.dry_run),
            Err(failure) => {
                let reason: String = failure.to_string().lines().map(|l| format!("# {l}\n")).collect();
                let again = format!("{HEADER}{reason}#\n{body}");
                if again == text {
                    // The user gave up: the same text was refused before.
                    return Err(failure);
                }
                text = again;
            }
        }
    }
}

async fn send(
    cx: &Cx,
    info: &Info,
    shown: &Value,
    wanted: &Value,
    writer: &super::write::Writer,
) -> Done<Option<Value>> {
    for path in ["/metadata/name", "/metadata/namespace", "/apiVersion", "/kind"] {
        if wanted.pointer(path) != shown.pointer(path) {
            fail!("{} may not be changed", path.trim_start_matches('/').replace('/', "."));
        }
    }
    let from = Info { object: shown.clone(), ..info.clone() };
    writer.bring(cx, &from, wanted).await
}

/// The lines that the user did not write are dropped.
fn without_header(text: &str) -> String {
    text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect()
}

fn in_editor(text: &str) -> Done<String> {
    let editor = ["KUBE_EDITOR", "EDITOR"].iter().find_map(|v| std::env::var(v).ok().filter(|e| !e.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let path = std::env::temp_dir().join(format!("orch-edit-{}.yaml", uuid::Uuid::new_v4()));
    files::write_atomic(&path, text.as_bytes(), files::SECRET_MODE)
        .map_err(|e| Failure::Plain(format!("cannot write {}: {e}", path.display())))?;
    // The shell splits an editor with flags; the file's name is passed beside it, not through it.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&path).status();
    let edited = std::fs::read_to_string(&path);
    let _ = std::fs::remove_file(&path);
    match status {
        Ok(status) if status.success() => Ok(edited?),
        Ok(status) => fail!("there was a problem with the editor {editor:?}: {status}"),
        Err(e) => fail!("unable to launch the editor {editor:?}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_dropped() {
        assert_eq!(without_header("# x\na: 1\n# y\nb: \"#\"\n"), "a: 1\nb: \"#\"\n");
    }
}
