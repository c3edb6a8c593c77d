//! A command that is run to its end: its output in memory, a deadline, and nothing left of it when nobody waits any more.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{
    error::{Error, Result},
    process::{bound_to_this_process, last_lines, spawn_from_a_lasting_thread},
};

const POLL: Duration = Duration::from_millis(5);
/// How long an interrupted command may take to put its own temporary files away.
const GRACE: Duration = Duration::from_secs(5);

type Text = Arc<Mutex<Vec<u8>>>;

/// A running command. Dropping it interrupts it, and kills it when it does not end.
pub(crate) struct Run {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    /// It and all that it starts are a process group of their own.
    is_group: bool,
    started: Instant,
    output: Text,
    errors: Text,
    readers: Vec<JoinHandle<()>>,
}

impl Run {
    /// Starts a command that starts no others. `input` is its standard input.
    pub(crate) fn start(name: &str, command: Command, input: &str) -> Result<Self> {
        Self::spawn(name, command, input, false)
    }

    /// Starts a program that starts others, as a build does: they end with it, and it ends with this process.
    pub(crate) fn start_tree(
        name: &str,
        program: &str,
        arrange: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self> {
        let mut command = bound_to_this_process(program.as_ref())?;
        arrange(&mut command).process_group(0);
        Self::spawn(name, command, "", true)
    }

    fn spawn(name: &str, mut command: Command, input: &str, is_group: bool) -> Result<Self> {
        let failed = |source| Error::Spawn { name: name.to_owned(), source };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn_from_a_lasting_thread(command).map_err(failed)?;
        let (output, errors) = (Text::default(), Text::default());
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| read(pipe, &output)));
        readers.extend(child.stderr.take().map(|pipe| read(pipe, &errors)));
        if let Some(mut pipe) = child.stdin.take() {
            let input = input.to_owned();
            // A command that does not read its input to the end says itself why.
            readers.push(std::thread::spawn(move || drop(pipe.write_all(input.as_bytes()))));
        }
        let (name, started) = (name.to_owned(), Instant::now());
        Ok(Self { name, child, ended: None, is_group, started, output, errors, readers })
    }

    /// What it printed, once it has ended. An error when it is not done within `timeout` from its start.
    pub(crate) fn poll(&mut self, timeout: Duration) -> Result<Option<Output>> {
        if self.ended.is_none() {
            let failed = |source| Error::Spawn { name: self.name.clone(), source };
            self.ended = self.child.try_wait().map_err(failed)?;
        }
        if let Some(status) = self.ended
            && self.readers.iter().all(JoinHandle::is_finished)
        {
            let (stdout, stderr) = (take(&self.output), take(&self.errors));
            return Ok(Some(Output { status, stdout, stderr }));
        }
        if self.started.elapsed() < timeout {
            return Ok(None);
        }
        let text = [take(&self.output), take(&self.errors)].concat();
        Err(Error::Timeout {
            name: self.name.clone(),
            what: "its end".into(),
            seconds: timeout.as_secs(),
            lines: last_lines(&String::from_utf8_lossy(&text)),
        })
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self, timeout: Duration) -> Result<Output> {
        loop {
            if let Some(output) = self.poll(timeout)? {
                return Ok(output);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The same for callers that may block.
    pub(crate) fn end_blocking(mut self, timeout: Duration) -> Result<Output> {
        loop {
            if let Some(output) = self.poll(timeout)? {
                return Ok(output);
            }
            std::thread::sleep(POLL);
        }
    }

    /// How many lines it has printed.
    pub(crate) fn lines(&self) -> usize {
        let count = |text: &Text| lock(text).iter().filter(|byte| **byte == b'\n').count();
        count(&self.output) + count(&self.errors)
    }

    /// How long it has run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        // It may have ended just now; then there is nobody left to tell.
        let _ = if self.is_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Go takes its temporary directory away when it is interrupted, and only then.
            self.signal(Signal::INT);
            let deadline = Instant::now() + GRACE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            // Of a group, also who did not listen.
            if self.is_group || matches!(self.child.try_wait(), Ok(None)) {
                self.signal(Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

fn read(mut pipe: impl Read + Send + 'static, into: &Text) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            lock(&into).extend_from_slice(&buffer[..count]);
        }
    })
}

fn lock(text: &Text) -> std::sync::MutexGuard<'_, Vec<u8>> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(text: &Text) -> Vec<u8> {
    std::mem::take(&mut *lock(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn input_goes_in_and_both_outputs_come_out() {
        let run = Run::start("sh", shell("cat; echo no >&2; exit 3"), "in").unwrap();
        let output = run.end(Duration::from_secs(60)).await.unwrap();
        assert_eq!((output.stdout, output.stderr, output.status.code()), (b"in".to_vec(), b"no\n".to_vec(), Some(3)));
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended_and_shows_its_last_lines() {
        let begin = Instant::now();
        let run = Run::start("sh", shell("echo busy; exec sleep 600"), "").unwrap();
        let error = run.end(Duration::from_millis(500)).await.unwrap_err().to_string();
        assert!(error.contains("sh: its end did not happen") && error.contains("busy"), "{error}");
        let run = Run::start("sh", shell("exec sleep 600"), "").unwrap();
        assert!(run.end_blocking(Duration::from_millis(1)).is_err());
        assert!(begin.elapsed() < Duration::from_secs(120), "sleep was waited for");
    }

    #[tokio::test]
    async fn what_a_build_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        // The trap stands before anybody can know of the child.
        let script = "trap 'echo away >trace; exit 1' INT; sleep 600 & echo $! >child; wait";
        let run = Run::start_tree("sh", "/bin/sh", |command| command.args(["-c", script]).current_dir(dir.path()));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !read("child").ends_with('\n') && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        drop(run.unwrap());
        assert_eq!(read("trace"), "away\n", "it had no time to tidy up");
        let stat = format!("/proc/{}/stat", read("child").trim());
        // The shell's own child is a zombie, or gone, at once; it is never asleep.
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !gone() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        assert!(gone());
    }
}
