//! What processes spend, read from /proc (Linux).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

/// A broker: the processes that were named and all of their descendants at the time of asking.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessGroup {
    roots: Vec<u32>,
}

/// CPU time used so far, by thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    by_thread_ns: BTreeMap<(u32, u32), u64>,
}

impl ProcessGroup {
    pub(crate) fn new(roots: Vec<u32>) -> Self {
        Self { roots }
    }

    /// Whether there is anything to measure.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The first named process that is no longer there, or of which only the exit status is left.
    pub(crate) fn vanished(&self) -> Option<u32> {
        let has_ended = |pid: &u32| match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => is_zombie(&stat),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        self.roots.iter().copied().find(has_ended)
    }

    /// CPU time of every thread, from `schedstat`, which counts nanoseconds on the CPU, not clock ticks.
    ///
    /// # Errors
    /// If a named process has ended: what its threads used is gone with them.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let mut by_thread_ns = BTreeMap::new();
        for pid in self.members() {
            let tasks = match fs::read_dir(format!("/proc/{pid}/task")) {
                Err(_) if !self.roots.contains(&pid) => continue,
                tasks => tasks?,
            };
            for entry in tasks {
                let entry = entry?;
                let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                // A thread may end between the listing and the reading.
                let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
                if let Some(on_cpu_ns) = parse_schedstat(&text) {
                    by_thread_ns.insert((pid, tid), on_cpu_ns);
                }
            }
        }
        match self.vanished() {
            None => Ok(Usage { by_thread_ns }),
            Some(pid) => Err(io::Error::other(format!("process {pid} has ended"))),
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        self.sum(resident_bytes)
    }

    /// Bytes that were handed to the disk so far.
    pub(super) fn written_bytes(&self) -> io::Result<u64> {
        let written = |pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
            let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            bytes
                .and_then(|bytes| bytes.parse::<u64>().ok())
                .ok_or_else(|| io::Error::other(format!("/proc/{pid}/io has no write_bytes line")))
        };
        self.sum(written)
    }

    /// Of all processes. A descendant may end between the listing and the reading.
    fn sum(&self, of: impl Fn(u32) -> io::Result<u64>) -> io::Result<u64> {
        let value = |pid| match of(pid) {
            Err(_) if !self.roots.contains(&pid) => Ok(0),
            value => value,
        };
        self.members().into_iter().map(value).sum()
    }

    pub(super) fn members(&self) -> BTreeSet<u32> {
        let parents = parents_of_all();
        let mut members: BTreeSet<u32> = self.roots.iter().copied().collect();
        loop {
            let children = parents.iter().filter(|(_, parent)| members.contains(parent));
            let fresh: Vec<u32> =
                children.map(|(pid, _)| *pid).filter(|pid| !members.contains(pid)).collect();
            if fresh.is_empty() {
                return members;
            }
            members.extend(fresh);
        }
    }
}

impl Usage {
    /// CPU time since `earlier`. A thread that has ended since is not counted.
    pub(crate) fn since_ns(&self, earlier: &Usage) -> u64 {
        let spent = self.by_thread_ns.iter().map(|(thread, now)| {
            now.saturating_sub(earlier.by_thread_ns.get(thread).copied().unwrap_or(0))
        });
        spent.sum()
    }
}

impl Usage {
    /// CPU time since `earlier` of the thread that has used the most.
    pub(crate) fn busiest_since_ns(&self, earlier: &Usage) -> u64 {
        let spent = self.by_thread_ns.iter().map(|(thread, now)| {
            now.saturating_sub(earlier.by_thread_ns.get(thread).copied().unwrap_or(0))
        });
        spent.max().unwrap_or(0)
    }
}

/// Resident memory of one process in bytes: exact from `smaps_rollup`, else from `status`, whose counters the
/// kernel keeps per CPU and adds up late.
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    if let Some(bytes) = exact.as_deref().and_then(|text| parse_kib_line(text, "Rss:")) {
        return Ok(bytes);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_kib_line(&status, "VmRSS:")
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no VmRSS line")))
}

fn parents_of_all() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse_parent(&stat)?))
    })
    .collect()
}

/// The first field: nanoseconds spent on the CPU.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The fourth field of `stat`.
fn parse_parent(stat: &str) -> Option<u32> {
    after_name(stat)?.nth(1)?.parse().ok()
}

/// The third field of `stat` is the state: Z, or X for a moment, is one that has ended.
fn is_zombie(stat: &str) -> bool {
    after_name(stat).and_then(|mut fields| fields.next()).is_some_and(|state| "ZX".contains(state))
}

/// The fields from the third on; the second, the command's name, may hold blanks and brackets of its own.
fn after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace())
}

fn parse_kib_line(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = value.split_ascii_whitespace();
    let kib: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then_some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_three_numbers_of_which_the_first_counts() {
        assert_eq!(parse_schedstat("162892 17 2\n"), Some(162_892));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_schedstat("x 0 0"), None);
    }

    #[test]
    fn resident_memory_comes_from_its_own_line() {
        let rollup = "00400000-7ffd rollup [rollup]\nRss:                 812 kB\nPss: 77 kB\n";
        assert_eq!(parse_kib_line(rollup, "Rss:"), Some(812 * 1024));
        let status = "Name:\tsluice\nVmHWM:\t  900 kB\nVmRSS:\t    1234 kB\n";
        assert_eq!(parse_kib_line(status, "VmRSS:"), Some(1234 * 1024));
        assert_eq!(parse_kib_line(status, "VmSwap:"), None);
        assert_eq!(parse_kib_line("Rss: 1 MB", "Rss:"), None);
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parse_parent("17 (a) b (c)) S 4 17 17 0"), Some(4));
        assert_eq!(parse_parent("17 no name"), None);
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_has_ended_all_the_same() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let group = ProcessGroup::new(vec![child.id()]);
        assert_eq!(group.vanished(), None);
        assert!(group.usage().is_ok());
        child.kill().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert_eq!(group.vanished(), Some(child.id()));
        assert!(group.usage().is_err());
        child.wait().unwrap();
        assert_eq!(group.vanished(), Some(child.id()));
    }

    #[test]
    fn usage_is_counted_by_thread() {
        let usage = |threads: &[(u32, u64)]| Usage {
            by_thread_ns: threads.iter().map(|(tid, ns)| ((1, *tid), *ns)).collect(),
        };
        let before = usage(&[(1, 100), (2, 50)]);
        let after = usage(&[(1, 400), (3, 7)]);
        assert_eq!(after.since_ns(&before), 307);
        assert_eq!(after.busiest_since_ns(&before), 300);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = ProcessGroup::new(vec![std::process::id()]);
        assert_eq!(own.vanished(), None);
        assert!(own.usage().unwrap().since_ns(&Usage::default()) > 0);
        assert!(own.resident_bytes().unwrap() > 100_000);
        assert!(own.written_bytes().is_ok());
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let gone = ProcessGroup::new(vec![u32::MAX]);
        assert_eq!(gone.vanished(), Some(u32::MAX));
        assert!(gone.usage().is_err());
    }
}
