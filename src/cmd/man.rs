//! Man pages, from the same definitions as the command line's help.

use std::path::Path;

use anyhow::Context;

use crate::util::files;

/// Writes `orch.1` and a page for each command.
pub fn write(command: &clap::Command, dir: &Path) -> anyhow::Result<()> {
    let mut pages = vec![command.clone()];
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("{}-{}", command.get_name(), sub.get_name());
        pages.push(sub.clone().name(name.clone()).display_name(name).version(env!("CARGO_PKG_VERSION")));
    }
    for page in pages {
        let mut text = Vec::new();
        let file = dir.join(format!("{}.1", page.get_name()));
        clap_mangen::Man::new(page).render(&mut text).context("cannot render a man page")?;
        files::write_atomic(&file, &text, 0o644).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        super::write(&<crate::cmd::Cli as clap::CommandFactory>::command(), dir.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        assert!(read("orch.1").contains("orch\\-server"), "{}", read("orch.1"));
        assert!(read("orch-server.1").contains("https"));
        assert!(!dir.path().join("orch-cni.1").exists());
    }
}
