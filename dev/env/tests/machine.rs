//! `check-machine.sh` finds what is missing before anything long begins, on machines that are made of stand-ins for the real programs.

#![allow(clippy::unwrap_used)] // A helper that fails is a test that fails.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// A machine on which the only programs are these.
struct Machine(tempfile::TempDir);

impl Machine {
    /// With all that is needed, each as old as it may be.
    fn good() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for name in ["awk", "cat", "df", "dirname", "env", "grep", "mktemp", "rm", "sed", "sh"] {
            let path = std::env::var_os("PATH").unwrap();
            let real = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file()).unwrap();
            symlink(real, machine.0.path().join(name)).unwrap();
        }
        for name in ["cc", "c++", "make", "perl", "setpriv"] {
            machine.says(name, "");
        }
        machine.says("cargo", "cargo 1.95.0 (x 2026-01-01)").says("rustc", "rustc 1.95.0 (x 2026-01-01)");
        machine.go("go1.26.7").says("java", "openjdk version \"17.0.15\" 2025-04-15");
        machine.says("mvn", "\u{1b}[1mApache Maven 3.8.7\u{1b}[m").disk(100);
        machine
    }

    fn program(&self, name: &str, script: &str) -> &Self {
        let file = self.0.path().join(name);
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn says(&self, name: &str, text: &str) -> &Self {
        self.program(name, &format!("cat <<'END'\n{text}\nEND"))
    }

    fn go(&self, version: &str) -> &Self {
        self.program(
            "go",
            &format!("case $2 in GOVERSION) echo {version} ;; *) echo {} ;; esac", self.home().display()),
        )
    }

    fn disk(&self, gib: u64) -> &Self {
        let free = gib * 1024 * 1024;
        self.says(
            "df",
            &format!("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 0 0 {free} 0% /disk"),
        )
    }

    fn without(&self, name: &str) -> &Self {
        std::fs::remove_file(self.0.path().join(name)).unwrap();
        self
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    /// What it says, and whether that is all well.
    fn check(&self, words: &str) -> (bool, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("check-machine.sh");
        let output = Command::new("/bin/sh")
            .arg(script)
            .args(words.split_whitespace())
            .env_clear()
            .env("PATH", self.0.path())
            .env("HOME", self.home())
            .env("CARGO_TARGET_DIR", self.home())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text)
    }

    /// It says so, with a remedy that has this in it, and nothing else.
    fn lacks(&self, words: &str, what: &str, remedy: &str) {
        let (well, text) = self.check(words);
        let lines: Vec<&str> = text.lines().collect();
        assert!(!well && lines.len() == 2, "{text}");
        assert!(lines[0].contains(what) && lines[1].starts_with("  remedy: ") && lines[1].contains(remedy), "{text}");
    }
}

const ALL: &str = "rust kubernetes kwok alertmanager prometheus otelcol kafka mailpit helm image";

#[test]
fn a_machine_with_everything_hears_nothing() {
    assert_eq!(Machine::good().check(ALL), (true, String::new()));
}

#[test]
fn the_pins_say_which_version_is_old() {
    let machine = Machine::good();
    machine.says("rustc", "rustc 1.94.9 (x 2026-01-01)").lacks(
        ALL,
        "rustc is of version 1.94.9, needed is 1.95",
        "rustup",
    );
    // Prometheus asks for more than the others.
    let machine = Machine::good();
    machine.go("go1.26.6").lacks(ALL, "go is of version 1.26.6, needed is 1.26.7", "dev/tools/prometheus");
    assert_eq!(machine.check("kubernetes kwok alertmanager"), (true, String::new()));
    assert!(Machine::good().go("go1.27rc1").check(ALL).0);
    Machine::good().says("java", "openjdk version \"11.0.2\"").lacks(ALL, "java is of version 11.0.2", "JDK");
    Machine::good().says("mvn", "Apache Maven 3.3.9").lacks("kafka", "mvn is of version 3.3.9", "Maven");
    Machine::good().says("rustc", "error: no toolchain").lacks("rust", "rustc does not say its version", "rustup");
}

#[test]
fn each_program_that_is_not_there_is_named_once() {
    for (name, remedy) in
        [("cargo", "rustup"), ("cc", "build-essential"), ("setpriv", "util-linux"), ("go", "go.dev"), ("mvn", "maven")]
    {
        Machine::good().without(name).lacks(ALL, &format!("{name} is not on the PATH"), remedy);
    }
    let (_, text) = Machine::good().without("rustc").without("java").check(ALL);
    assert!(text.contains("rustc is not") && text.contains("java is not"), "all at once: {text}");
}

#[test]
fn the_disk_is_that_of_all_the_caches_together() {
    let machine = Machine::good();
    machine.disk(12).lacks(ALL, "/disk has 12.0 GiB free, the build needs about ", "GOMODCACHE");
    assert!(machine.check("kubernetes").0, "one tool alone fits");
}

#[test]
fn a_tool_of_the_cache_needs_no_compiler() {
    let machine = Machine::good();
    machine.without("go");
    let tools = machine.home().join(".cache/eventpulse/tools");
    std::fs::create_dir_all(tools.join("kwok-0123.partial")).unwrap();
    machine.lacks("--if-missing kwok", "go is not on the PATH", "go.dev");
    std::fs::create_dir_all(tools.join("kwok-0123")).unwrap();
    assert_eq!(machine.check("--if-missing kwok"), (true, String::new()));
    machine.lacks("kwok", "go is not on the PATH", "go.dev");
}
