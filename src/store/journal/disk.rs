//! The files that the journal needs of a disk, as a trait, so that a simulated disk can lose, tear and reorder whatever
//! was not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::util::files::{self, SECRET_MODE};

/// One directory of files, without directories in it.
pub trait Disk: Send + Sync {
    /// Names of the files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Reads a file from its start.
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    /// Makes an empty file to append to; an existing one is emptied. The name is durable after [`Disk::sync_names`].
    fn create(&self, name: &str) -> io::Result<Box<dyn Append>>;
    /// Ends a file with `tail` at a place, and makes all of it durable. The tail is written anew though it may stand
    /// there: what a failed sync left is in the page cache, looks clean, and would never reach the disk.
    fn settle(&self, name: &str, at: u64, tail: &[u8]) -> io::Result<()>;
    /// Gives a file another name; one that has it is replaced. Durable after [`Disk::sync_names`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_names`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// A file that only grows.
pub trait Append: Send {
    /// Writes at the end. After an error the end is unknown.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was appended durable. After an error nothing is known of what was not durable before.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of the machine. Its files have mode 0600: the store holds secrets.
pub struct RealDisk(PathBuf);

impl RealDisk {
    /// Makes the directory, mode 0700, where it is not there, so that a power cut leaves it there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        files::create_dir_durable(dir)?;
        Ok(Self(dir.to_owned()))
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Append>> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(SECRET_MODE).open(self.0.join(name))?;
        Ok(Box::new(file))
    }

    fn settle(&self, name: &str, at: u64, tail: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.0.join(name))?;
        file.write_all_at(tail, at)?;
        let len = at + tail.len() as u64;
        if file.metadata()?.len() > len {
            file.set_len(len)?;
        }
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Append for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
