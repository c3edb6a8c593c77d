//! Helm, and the container image: what is installed elsewhere, made and tried here.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    control_plane::ControlPlane,
    error::{Error, Result, at},
    process::{clean, last_lines},
    run::Run,
    tools::{Tool, Tools},
};

/// Longer than any `--timeout` that is given to Helm.
const HELM_TIMEOUT: Duration = Duration::from_secs(300);
/// Downloads of a few packages, and some compressing.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const TOOL_TIMEOUT: Duration = Duration::from_secs(120);

impl Tools {
    /// Runs one of a tool's programs to its end, in `dir`, which is its home directory too. Gives what it printed; the error has it too.
    /// The tool must have been built. For tests, which may block.
    pub fn run(&self, tool: Tool, name: &str, dir: &Path, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.program(tool, name)?);
        clean(&mut command, dir);
        command.current_dir(dir).args(args);
        let timeout = if tool == Tool::Helm { HELM_TIMEOUT } else { TOOL_TIMEOUT };
        let output = Run::start(name, command, "")?.end_blocking(timeout)?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Ok(text.into_owned());
        }
        Err(Error::Build { what: format!("{name} {}", args.join(" ")), reason: format!("{text}{errors}") })
    }

    /// Puts the container image together from this binary. `out` gets the OCI layout `oci` and an archive. Gives what is said to people.
    pub async fn build_image(&self, binary: &Path, out: &Path) -> Result<String> {
        self.ensure(&[Tool::Image]).await?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(at(path));
        let (binary, out) = (absolute(binary)?, absolute(out)?);
        let (umoci, crane) = (self.program(Tool::Image, "umoci")?, self.program(Tool::Image, "crane")?);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/build.sh");
        let run = Run::start_tree("the image's build", "sh", |command| {
            command.arg(script).arg(binary).arg(out).env("UMOCI", umoci).env("CRANE", crane)
        })?;
        let output = run.end(IMAGE_TIMEOUT).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        Err(Error::Build { what: "the image".into(), reason: last_lines(&text) })
    }
}

impl ControlPlane {
    /// Helm, which must have been built, as administrator of this server and no other.
    pub fn helm(&self, tools: &Tools, args: &[&str]) -> Result<String> {
        let kubeconfig = self.kubeconfig();
        let dir = kubeconfig.parent().map(Path::to_owned).unwrap_or_default();
        let kubeconfig = kubeconfig.display().to_string();
        tools.run(Tool::Helm, "helm", &dir, &[&["--kubeconfig", &kubeconfig], args].concat())
    }
}
