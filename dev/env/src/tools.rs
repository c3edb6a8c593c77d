//! Builds the pinned tools once and keeps them in the cache. An interrupted build goes on from Go's and Maven's own caches; the
//! result appears under its name only when it is whole.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::{
    cache::{cache_dir, key, lock},
    error::{Error, Result, at},
    process::last_lines,
    run::Run,
};

const BUILD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
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
    /// The OpenTelemetry Collector.
    Otelcol,
    /// A mail server that keeps what it takes.
    Mailpit,
    /// Helm, which installs the charts.
    Helm,
    /// umoci and crane, which put the container image together without a daemon.
    Image,
}

impl Tool {
    /// All of them.
    pub const ALL: [Tool; 9] = [
        Tool::Kubernetes,
        Tool::Kwok,
        Tool::Kafka,
        Tool::Alertmanager,
        Tool::Prometheus,
        Tool::Mailpit,
        Tool::Otelcol,
        Tool::Helm,
        Tool::Image,
    ];

    fn name(self) -> &'static str {
        match self {
            Tool::Kubernetes => "kubernetes",
            Tool::Kwok => "kwok",
            Tool::Alertmanager => "alertmanager",
            Tool::Prometheus => "prometheus",
            Tool::Otelcol => "otelcol",
            Tool::Kafka => "kafka",
            Tool::Mailpit => "mailpit",
            Tool::Helm => "helm",
            Tool::Image => "image",
        }
    }

    /// What the first build is like on two cores, for people who wait.
    fn estimate(self) -> &'static str {
        match self {
            Tool::Kubernetes => "about 8 minutes the first time",
            Tool::Kwok => "about 2 minutes the first time",
            Tool::Alertmanager => "about 1 minute the first time",
            Tool::Prometheus => "about 4 minutes the first time",
            Tool::Otelcol => "about 2 minutes the first time",
            Tool::Kafka => "about 20 seconds the first time",
            Tool::Mailpit => "about 2 minutes the first time",
            Tool::Helm => "about 2 minutes the first time",
            Tool::Image => "about 1 minute the first time",
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
            Tool::Mailpit => {
                let version = version("github.com/axllent/mailpit")?;
                format!("-X github.com/axllent/mailpit/config.Version={version}")
            }
            Tool::Otelcol => format!("-X main.version={}", version("go.opentelemetry.io/collector/otelcol")?),
            Tool::Helm => {
                format!("-X helm.sh/helm/v4/internal/version.version={}", version("helm.sh/helm/v4")?)
            }
            Tool::Image => {
                let version = version("github.com/google/go-containerregistry")?;
                format!("-X github.com/google/go-containerregistry/cmd/crane/cmd.Version={version}")
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
                let programs = &[
                    "github.com/prometheus/prometheus/cmd/prometheus",
                    "github.com/prometheus/prometheus/cmd/promtool",
                ];
                (programs, &["-tags", "netgo,remove_all_sd"])
            }
            Tool::Mailpit => (&["github.com/axllent/mailpit"], &[]),
            // A main of its own, in its module's directory.
            Tool::Otelcol => (&["."], &[]),
            Tool::Helm => (&["helm.sh/helm/v4/cmd/helm"], &[]),
            Tool::Image => (
                &["github.com/opencontainers/umoci/cmd/umoci", "github.com/google/go-containerregistry/cmd/crane"],
                &[],
            ),
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

    /// Builds what is missing of these, and says how it goes on standard error. Gives nothing: [`Tools::dir`] finds it. Dropping the
    /// future ends a build, or the wait for somebody else's.
    pub async fn ensure(&self, tools: &[Tool]) -> Result<()> {
        let missing: Vec<Tool> =
            tools.iter().copied().filter(|tool| !self.dir(*tool).is_ok_and(|dir| dir.is_dir())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.check_machine(&missing).await?;
        for tool in missing {
            self.build(tool).await?;
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
            let mut files = vec![source.join("go.mod"), source.join("go.sum")];
            files.extend((tool == Tool::Otelcol).then(|| source.join("main.go")));
            let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
            key(&files, &[packages, flags, &[&stamp]].concat())?
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

    /// Versions and disk, before anything long begins: by the script that the Makefile runs too.
    async fn check_machine(&self, missing: &[Tool]) -> Result<()> {
        let mut command = Command::new("sh");
        command.arg(self.sources.join("env/check-machine.sh")).args(missing.iter().map(|tool| tool.name()));
        command.env("EVENTPULSE_CACHE", self.cache.parent().unwrap_or(&self.cache));
        let output = Run::start("check-machine.sh", command, "")?.end(CHECK_TIMEOUT).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Machine { problems: String::from_utf8_lossy(&output.stderr).trim_end().to_owned() })
    }

    async fn build(&self, tool: Tool) -> Result<()> {
        let dir = self.dir(tool)?;
        std::fs::create_dir_all(&self.cache).map_err(at(&self.cache))?;
        let _lock = lock(&self.cache.join(format!("{}.lock", tool.name())), tool.name(), BUILD_TIMEOUT).await?;
        if dir.is_dir() {
            return Ok(());
        }
        let started = Instant::now();
        eprintln!("  building {} ({})", tool.name(), tool.estimate());
        let partial = dir.with_extension("partial");
        let _ = std::fs::remove_dir_all(&partial);
        std::fs::create_dir_all(&partial).map_err(at(&partial))?;
        if tool == Tool::Kafka {
            self.copy_jars(&partial).await?
        } else {
            self.go_build(tool, &partial).await?
        }
        if tool == Tool::Kwok {
            self.copy_stages(&partial).await?;
        }
        if tool == Tool::Kubernetes {
            // etcd's module names its program after its directory.
            std::fs::rename(partial.join("server"), partial.join("etcd")).map_err(at(partial.join("etcd")))?;
        }
        std::fs::rename(&partial, &dir).map_err(at(&dir))?;
        eprintln!("  built {} in {} s", tool.name(), started.elapsed().as_secs());
        Ok(())
    }

    async fn go_build(&self, tool: Tool, out: &Path) -> Result<()> {
        let (packages, flags) = tool.packages();
        let total = self.count_packages(tool).await;
        let stamp = format!("-s -w {}", self.stamp(tool)?);
        let run = self.start_go(tool, |command| {
            command.args(["build", "-v", "-trimpath", "-ldflags", &stamp]).args(flags);
            command.arg("-o").arg(format!("{}/", out.display())).args(packages)
        });
        let of = total.map(|total| format!(" of at most {total}")).unwrap_or_default();
        finish(run?, tool.name(), &format!("{of} packages")).await.map(drop)
    }

    /// Go in a tool's module. Where it finds modules and keeps its caches is the user's to say; what is built is not, and neither a
    /// workspace nor flags nor cgo of theirs may change it. An empty GOFLAGS would be looked up in what `go env -w` has written.
    fn start_go(&self, tool: Tool, arrange: impl FnOnce(&mut Command) -> &mut Command) -> Result<Run> {
        Run::start_tree("go", "go", |command| {
            command.current_dir(self.source(tool));
            arrange(command).env("GOWORK", "off").env("GOFLAGS", "-mod=readonly").env("CGO_ENABLED", "0")
        })
    }

    /// At the first build this is where the modules are downloaded.
    async fn count_packages(&self, tool: Tool) -> Option<usize> {
        let (packages, flags) = tool.packages();
        let run = self.start_go(tool, |command| command.arg("list").args(flags).arg("-deps").args(packages));
        let output = finish(run.ok()?, tool.name(), " modules downloaded").await.ok()?;
        Some(output.stdout.iter().filter(|byte| **byte == b'\n').count())
    }

    async fn copy_jars(&self, out: &Path) -> Result<()> {
        let run = Run::start_tree("mvn", "mvn", |command| {
            command.args(["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
            command.arg(format!("-DoutputDirectory={}", out.display()));
            command.arg("-f").arg(self.source(Tool::Kafka).join("pom.xml"))
        });
        finish(run?, "kafka", " lines of Maven").await.map(drop)
    }

    /// kwok's stages tell what its nodes and pods do; they are files of its module.
    async fn copy_stages(&self, out: &Path) -> Result<()> {
        let run =
            self.start_go(Tool::Kwok, |command| command.args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"]));
        let output = finish(run?, "kwok", " lines").await?;
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

/// Waits for a build and says every now and then how far it is, whether it prints anything or not: `lines` is what each of its lines
/// stands for. On failure its last lines are in the error.
async fn finish(mut run: Run, what: &str, lines: &str) -> Result<Output> {
    let mut told = Instant::now();
    let output = loop {
        if let Some(output) = run.poll(BUILD_TIMEOUT)? {
            break output;
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            eprintln!("    {what}: {}{lines}, {} s", run.lines(), run.elapsed().as_secs());
        }
        tokio::time::sleep(POLL).await;
    };
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Err(Error::Build { what: what.into(), reason: format!("{}\n{}", output.status, last_lines(&text)) })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(ends(Tool::Mailpit, "github.com/axllent/mailpit v1.33.1", "config.Version=v1.33.1"));
        assert_eq!(stamp(Tool::Kubernetes, "k8s.io/kubernetes-not v1.38.4"), None);
        for tool in Tool::ALL.into_iter().filter(|tool| *tool != Tool::Kafka) {
            assert!(Tools::new().stamp(tool).is_ok(), "{tool:?}");
        }
    }
}
