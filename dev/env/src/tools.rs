//! Builds the pinned tools once and keeps them in the cache. An interrupted build goes on from Go's and Maven's own caches; the
//! result appears under its name only when it is whole.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cache::{cache_dir, key, lock},
    error::{Error, Result, at},
    process::last_lines,
};

const BUILD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Something that the environment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl.
    Kubernetes,
    /// Nodes and pods without a container runtime.
    Kwok,
    /// Alertmanager.
    Alertmanager,
    /// Prometheus.
    Prometheus,
    /// Apache Kafka's jars.
    Kafka,
}

impl Tool {
    /// All of them.
    pub const ALL: [Tool; 5] = [Tool::Kubernetes, Tool::Kwok, Tool::Kafka, Tool::Alertmanager, Tool::Prometheus];

    fn name(self) -> &'static str {
        match self {
            Tool::Kubernetes => "kubernetes",
            Tool::Kwok => "kwok",
            Tool::Alertmanager => "alertmanager",
            Tool::Prometheus => "prometheus",
            Tool::Kafka => "kafka",
        }
    }

    /// What the first build is like on two cores, for people who wait, and the disk that its caches take.
    fn estimate(self) -> (&'static str, u64) {
        match self {
            Tool::Kubernetes => ("about 8 minutes the first time", 8),
            Tool::Kwok => ("about 2 minutes the first time", 4),
            Tool::Alertmanager => ("about 1 minute the first time", 3),
            Tool::Prometheus => ("about 4 minutes the first time", 4),
            Tool::Kafka => ("about 20 seconds the first time", 1),
        }
    }

    /// What `-ldflags` writes into the programs, so that they know their own version. `go_mod` is the pin.
    fn stamp(self, go_mod: &str) -> Option<String> {
        let version = |module| pinned(go_mod, module);
        Some(match self {
            Tool::Kubernetes => {
                let version = version("k8s.io/kubernetes")?;
                let (major, minor) = version.strip_prefix('v')?.split_once('.')?;
                let (minor, _) = minor.split_once('.')?;
                let package = "k8s.io/component-base/version";
                format!("-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
            }
            Tool::Alertmanager => {
                let version = version("github.com/prometheus/alertmanager")?.strip_prefix('v')?;
                format!("-X github.com/prometheus/common/version.Version={version}")
            }
            Tool::Prometheus => {
                // Prometheus 3.16.0 is v0.316.0 as a module.
                let version = version("github.com/prometheus/prometheus")?.strip_prefix("v0.3")?;
                let (minor, patch) = version.split_once('.')?;
                let minor: u32 = minor.parse().ok()?;
                format!("-X github.com/prometheus/common/version.Version=3.{minor}.{patch}")
            }
            Tool::Kwok | Tool::Kafka => String::new(),
        })
    }

    /// Packages to build, and what else decides the result.
    fn packages(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Tool::Kubernetes => (
                &[
                    "k8s.io/kubernetes/cmd/kube-apiserver",
                    "k8s.io/kubernetes/cmd/kube-controller-manager",
                    "k8s.io/kubernetes/cmd/kube-scheduler",
                    "k8s.io/kubernetes/cmd/kubectl",
                    "go.etcd.io/etcd/server/v3",
                ],
                &[],
            ),
            Tool::Kwok => (&["sigs.k8s.io/kwok/cmd/kwok"], &[]),
            Tool::Alertmanager => (&["github.com/prometheus/alertmanager/cmd/alertmanager"], &[]),
            // Service discovery for clouds is most of Prometheus, and nothing here uses it.
            Tool::Prometheus => {
                (&["github.com/prometheus/prometheus/cmd/prometheus"], &["-tags", "netgo,remove_all_sd"])
            }
            Tool::Kafka => (&[], &[]),
        }
    }
}

/// The tools of the cache.
#[derive(Clone, Debug)]
pub struct Tools {
    sources: PathBuf,
    cache: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self::new()
    }
}

impl Tools {
    /// Builds nothing yet.
    pub fn new() -> Self {
        Self { sources: Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), cache: cache_dir().join("tools") }
    }

    /// Builds what is missing of these, and says how it goes on standard error. Gives nothing: [`Tools::dir`] finds it.
    pub fn ensure(&self, tools: &[Tool]) -> Result<()> {
        let missing: Vec<Tool> =
            tools.iter().copied().filter(|tool| !self.dir(*tool).is_ok_and(|dir| dir.is_dir())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        check_machine(&missing, &self.cache)?;
        for tool in missing {
            self.build(tool)?;
        }
        Ok(())
    }

    /// Where a tool's files are once it is built.
    pub fn dir(&self, tool: Tool) -> Result<PathBuf> {
        let source = self.source(tool);
        let key = if tool == Tool::Kafka {
            key(&[&source.join("pom.xml")], &[])?
        } else {
            let (packages, flags) = tool.packages();
            let stamp = self.stamp(tool)?;
            key(&[&source.join("go.mod"), &source.join("go.sum")], &[packages, flags, &[&stamp]].concat())?
        };
        Ok(self.cache.join(format!("{}-{key}", tool.name())))
    }

    /// One of a tool's programs.
    pub fn program(&self, tool: Tool, name: &str) -> Result<PathBuf> {
        Ok(self.dir(tool)?.join(name))
    }

    fn source(&self, tool: Tool) -> PathBuf {
        if tool == Tool::Kafka { self.sources.join("kafka") } else { self.sources.join("tools").join(tool.name()) }
    }

    fn stamp(&self, tool: Tool) -> Result<String> {
        let file = self.source(tool).join("go.mod");
        let text = std::fs::read_to_string(&file).map_err(at(&file))?;
        let reason = || format!("{} does not pin a version of it", file.display());
        tool.stamp(&text).ok_or_else(|| Error::Build { what: tool.name().into(), reason: reason() })
    }

    fn build(&self, tool: Tool) -> Result<()> {
        let dir = self.dir(tool)?;
        std::fs::create_dir_all(&self.cache).map_err(at(&self.cache))?;
        let _lock = lock(&self.cache.join(format!("{}.lock", tool.name())), tool.name(), BUILD_TIMEOUT)?;
        if dir.is_dir() {
            return Ok(());
        }
        let started = Instant::now();
        eprintln!("  building {} ({})", tool.name(), tool.estimate().0);
        let partial = dir.with_extension("partial");
        let _ = std::fs::remove_dir_all(&partial);
        std::fs::create_dir_all(&partial).map_err(at(&partial))?;
        if tool == Tool::Kafka {
            self.copy_jars(&partial)?
        } else {
            self.go_build(tool, &partial)?
        }
        if tool == Tool::Kwok {
            self.copy_stages(&partial)?;
        }
        if tool == Tool::Kubernetes {
            // etcd's module names its program after its directory.
            std::fs::rename(partial.join("server"), partial.join("etcd")).map_err(at(partial.join("etcd")))?;
        }
        std::fs::rename(&partial, &dir).map_err(at(&dir))?;
        eprintln!("  built {} in {} s", tool.name(), started.elapsed().as_secs());
        Ok(())
    }

    fn go_build(&self, tool: Tool, out: &Path) -> Result<()> {
        let (packages, flags) = tool.packages();
        let source = self.source(tool);
        let total = count_packages(&source, packages, flags);
        let stamp = format!("-s -w {}", self.stamp(tool)?);
        let mut command = Command::new("go");
        command.arg("build").args(["-v", "-trimpath", "-mod=readonly", "-ldflags", &stamp]).args(flags);
        command
            .arg("-o")
            .arg(format!("{}/", out.display()))
            .args(packages)
            .current_dir(&source)
            .env("CGO_ENABLED", "0");
        run_with_progress(command, tool.name(), total)
    }

    fn copy_jars(&self, out: &Path) -> Result<()> {
        let mut command = Command::new("mvn");
        command.args(["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
        command
            .arg(format!("-DoutputDirectory={}", out.display()))
            .arg("-f")
            .arg(self.source(Tool::Kafka).join("pom.xml"));
        run_with_progress(command, "kafka", None)
    }

    /// kwok's stages tell what its nodes and pods do; they are files of its module.
    fn copy_stages(&self, out: &Path) -> Result<()> {
        let output = Command::new("go")
            .args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"])
            .current_dir(self.source(Tool::Kwok))
            .output()
            .map_err(|source| Error::Spawn { name: "go".into(), source })?;
        let module = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let stages = out.join("stages");
        std::fs::create_dir_all(&stages).map_err(at(&stages))?;
        for group in ["node/fast", "node/heartbeat", "pod/fast"] {
            let dir = module.join("kustomize/stage").join(group);
            for entry in std::fs::read_dir(&dir).map_err(at(&dir))? {
                let path = entry.map_err(at(&dir))?.path();
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if name.ends_with(".yaml") && name != "kustomization.yaml" {
                    let copy = stages.join(format!("{}-{name}", group.replace('/', "-")));
                    std::fs::write(&copy, std::fs::read(&path).map_err(at(&path))?).map_err(at(&copy))?;
                }
            }
        }
        Ok(())
    }
}

/// The version that a `go.mod` requires of a module.
fn pinned<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next())?
    })
}

fn count_packages(source: &Path, packages: &[&str], flags: &[&str]) -> Option<usize> {
    let output =
        Command::new("go").arg("list").args(flags).arg("-deps").args(packages).current_dir(source).output().ok()?;
    output.status.success().then(|| output.stdout.iter().filter(|byte| **byte == b'\n').count())
}

/// Runs a build and says every now and then how far it is. On failure its last lines are in the error.
fn run_with_progress(mut command: Command, what: &str, total: Option<usize>) -> Result<()> {
    let spawn = |source| Error::Spawn { name: what.to_owned(), source };
    // Only one of the two pipes may be read here, so both ends of the output go the same way.
    let (reader, writer) = std::io::pipe().map_err(spawn)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(spawn)?).stderr(writer);
    let mut child = command.spawn().map_err(spawn)?;
    drop(command);
    let (started, mut told, mut lines) = (Instant::now(), Instant::now(), Vec::new());
    for line in BufReader::new(reader).lines().map_while(std::io::Result::ok) {
        lines.push(line);
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let of = total.map(|total| format!(" of at most {total}")).unwrap_or_default();
            eprintln!("    {what}: {}{of} packages, {} s", lines.len(), started.elapsed().as_secs());
        }
    }
    let status = child.wait().map_err(spawn)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Build { what: what.into(), reason: format!("{status}\n{}", last_lines(&lines.join("\n"))) })
}

/// Versions and disk, before anything long begins.
fn check_machine(missing: &[Tool], cache: &Path) -> Result<()> {
    if missing.iter().any(|tool| *tool != Tool::Kafka) {
        require("go", &["version"], "go1.", 26, "install Go 1.26 or newer and put it on the PATH")?;
    }
    if missing.contains(&Tool::Kafka) {
        require(
            "java",
            &["-version"],
            "version \"",
            17,
            "install a JDK 17 or newer (Debian: openjdk-17-jdk-headless)",
        )?;
        require("mvn", &["-v"], "Apache Maven ", 3, "install Maven 3 (Debian: maven)")?;
    }
    let needed: u64 = missing.iter().map(|tool| tool.estimate().1).sum();
    let existing = cache.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    if let Ok(stat) = nix::sys::statvfs::statvfs(existing) {
        let free = stat.blocks_available() * stat.fragment_size() / (1 << 30);
        if free < needed {
            return Err(Error::Missing {
                what: format!(
                    "the tools need about {needed} GiB of disk for their build caches, and {} has {free}",
                    existing.display()
                ),
                remedy: "free some disk, or set EVENTPULSE_CACHE and GOCACHE to directories with more".into(),
            });
        }
    }
    Ok(())
}

fn require(program: &str, args: &[&str], before: &str, least: u32, remedy: &str) -> Result<()> {
    let missing = |what: String| Error::Missing { what, remedy: remedy.into() };
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| missing(format!("{program} cannot be run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match version_after(&text, before) {
        Some(version) if version >= least => Ok(()),
        Some(version) => Err(missing(format!("{program} is of version {version}, needed is {least} or newer"))),
        None => Err(missing(format!("{program} does not say its version"))),
    }
}

fn version_after(text: &str, before: &str) -> Option<u32> {
    let (_, rest) = text.split_once(before)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_write_them() {
        assert_eq!(version_after("go version go1.26.8 linux/amd64", "go1."), Some(26));
        assert_eq!(version_after("openjdk version \"17.0.15\" 2025-04-15", "version \""), Some(17));
        assert_eq!(version_after("\u{1b}[1mApache Maven 3.8.7\u{1b}[m", "Apache Maven "), Some(3));
        assert_eq!(version_after("nonsense", "go1."), None);
    }

    #[test]
    fn programs_are_stamped_with_the_version_that_is_pinned() {
        let stamp = |tool: Tool, line: &str| {
            tool.stamp(&format!("module x\n\nrequire (\n\ta.io/a v0.0.1\n\t{line} // indirect\n)\n"))
        };
        let kubernetes = stamp(Tool::Kubernetes, "k8s.io/kubernetes v1.38.4").unwrap();
        for part in ["gitVersion=v1.38.4", "gitMajor=1", "gitMinor=38"] {
            assert!(kubernetes.contains(&format!("-X k8s.io/component-base/version.{part}")), "{kubernetes}");
        }
        let ends = |tool, line, end| stamp(tool, line).is_some_and(|stamp: String| stamp.ends_with(end));
        assert!(ends(Tool::Alertmanager, "github.com/prometheus/alertmanager v0.31.1", "version.Version=0.31.1"));
        assert!(ends(Tool::Prometheus, "github.com/prometheus/prometheus v0.316.0", "version.Version=3.16.0"));
        assert!(ends(Tool::Prometheus, "github.com/prometheus/prometheus v0.305.2", "version.Version=3.5.2"));
        assert_eq!(stamp(Tool::Kubernetes, "k8s.io/kubernetes-not v1.38.4"), None);
        for tool in Tool::ALL.into_iter().filter(|tool| *tool != Tool::Kafka) {
            assert!(Tools::new().stamp(tool).is_ok(), "{tool:?}");
        }
    }

    #[test]
    fn what_the_machine_lacks_comes_with_a_remedy() {
        let error = require("no-such-program", &[], "", 1, "install it").unwrap_err().to_string();
        assert!(error.contains("no-such-program cannot be run") && error.ends_with("remedy: install it"), "{error}");
        let error = require("go", &["version"], "go1.", 900, "install a newer one").unwrap_err().to_string();
        assert!(error.contains("needed is 900 or newer"), "{error}");
    }
}
