//! (s) The alerts on EventPulse itself are rules that a real promtool takes, and each comes and stays away as its unit tests say.

use eventpulse_e2e::root;
use eventpulse_env::{Tool, Tools};

#[tokio::test(flavor = "multi_thread")]
async fn s_the_alerts_on_eventpulse_itself_hold_their_unit_tests() {
    let tools = Tools::new();
    tools.ensure(&[Tool::Prometheus]).await.unwrap();
    let (home, dir) = (std::env::temp_dir(), root().join("config/prometheus"));
    let file = |name: &str| dir.join(name).display().to_string();
    let promtool = |args: &[&str]| tools.run(Tool::Prometheus, "promtool", &home, args);
    let checked = promtool(&["check", "rules", "--lint=all", "--lint-fatal", &file("eventpulse.rules.yaml")]).unwrap();
    assert!(checked.contains("16 rules found"), "{checked}");
    promtool(&["test", "rules", &file("eventpulse.rules.test.yaml")]).unwrap();
}
