//! Plots as SVG: the whole distribution of a latency, and what went on over time.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use crate::outcome::{Outcome, Series, number};

const SIZE: (u32, u32) = (860, 380);
const FONT: &str = "sans-serif";
/// Colours that are told apart without red and green (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

type Line = (String, Vec<(f64, f64)>);

/// Draws what an outcome has; gives title and file name of each plot.
pub fn draw(outcome: &Outcome, dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let prefix = prefix(outcome);
    let mut drawn = Vec::new();
    let curves: Vec<Line> = outcome.curves.iter().map(|(name, points)| (name.clone(), points.clone())).collect();
    if curves.iter().any(|(_, points)| points.len() > 1) {
        let file = format!("{prefix}latency.svg");
        distribution(&curves, &dir.join(&file))?;
        drawn.push(("Latency by percentile".to_owned(), file));
    }
    let mut units: Vec<&str> = outcome.series.iter().map(|series| series.unit.as_str()).collect();
    units.dedup();
    for unit in units {
        let of_unit: Vec<&Series> = outcome.series.iter().filter(|series| series.unit == unit).collect();
        if of_unit.iter().all(|series| series.points.len() < 2) {
            continue;
        }
        let slug: String =
            unit.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let file = format!("{prefix}{slug}.svg");
        over_time(&of_unit, unit, &dir.join(&file))?;
        let title = if unit == "MiB" { "Memory over time".to_owned() } else { format!("Over time, {unit}") };
        drawn.push((title, file));
    }
    Ok(drawn)
}

/// What the files of an outcome's plots begin with.
pub fn prefix(outcome: &Outcome) -> String {
    match outcome.bus {
        Some(bus) => format!("{}-{bus}-", outcome.scenario),
        None => format!("{}-", outcome.scenario),
    }
}

fn distribution(lines: &[Line], file: &Path) -> anyhow::Result<()> {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let nines = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let (least, most) = all().fold((f64::MAX, 0.01_f64), |(least, most), (_, y)| (least.min(*y), most.max(*y)));
    let (least, most) = (least.max(0.001) / 1.3, most * 1.3);
    let backend = SVGBackend::new(file, SIZE).into_drawing_area();
    backend.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    let mut chart = ChartBuilder::on(&backend)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..nines, (least..most).log_scale())
        .map_err(|error| anyhow!("{error}"))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("ms")
        .x_labels(nines.ceil() as usize + 1)
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|ms| number(*ms))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 13))
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| anyhow!("{error}"))?;
    for (i, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points = points.iter().map(|(x, y)| (*x, y.max(0.001)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(|error| anyhow!("{error}"))?
            .label(name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| anyhow!("{error}"))?;
    backend.present().map_err(|error| anyhow!("{}: {error}", file.display()))
}

/// So many nines: 0 is 0 %, 1 is 90 %, 2 is 99 %.
fn percentile(nines: f64) -> String {
    let digits = (nines - 2.01).max(0.0).ceil() as usize;
    format!("{:.digits$} %", 100.0 - 100.0 * 10_f64.powf(-nines))
}

fn over_time(series: &[&Series], unit: &str, file: &Path) -> anyhow::Result<()> {
    let all = || series.iter().flat_map(|series| &series.points);
    let (from, to) = all().fold((f64::MAX, f64::MIN), |(from, to), (x, _)| (from.min(*x), to.max(*x)));
    let most = all().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-9) * 1.1;
    let backend = SVGBackend::new(file, SIZE).into_drawing_area();
    backend.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    let mut chart = ChartBuilder::on(&backend)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(from..to.max(from + 1.0), 0.0..most)
        .map_err(|error| anyhow!("{error}"))?;
    chart
        .configure_mesh()
        .x_desc("seconds since the load began")
        .y_desc(unit)
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|value| number(*value))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 13))
        .light_line_style(WHITE)
        .draw()
        .map_err(|error| anyhow!("{error}"))?;
    for (i, series) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)))
            .map_err(|error| anyhow!("{error}"))?
            .label(series.name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| anyhow!("{error}"))?;
    backend.present().map_err(|error| anyhow!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::{latencies::Latencies, outcome::Bus};

    #[test]
    fn plots_show_their_lines_and_are_left_out_where_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut outcome = Outcome::new("react", Some(Bus::Kafka), Timestamp::UNIX_EPOCH);
        assert!(draw(&outcome, dir.path()).unwrap().is_empty());
        outcome.add_latencies("the way", &Latencies::of((1..2_000).map(Duration::from_micros)));
        outcome.series.push(Series::new("a line of memory", "MiB", vec![(0.0, 10.0), (1.0, 12.0)]));
        outcome.series.push(Series::new("rate", "alerts a second", vec![(0.0, 0.0), (1.0, 0.0)]));
        outcome.series.push(Series::new("nothing", "x", vec![(0.0, 1.0)]));
        let files: Vec<String> = draw(&outcome, dir.path()).unwrap().into_iter().map(|(_, file)| file).collect();
        assert_eq!(files, ["react-kafka-latency.svg", "react-kafka-mib.svg", "react-kafka-alerts-a-second.svg"]);
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(read(&files[0]).contains("the way") && read(&files[0]).contains("99 %"), "{}", read(&files[0]));
        assert!(read(&files[1]).contains("a line of memory") && read(&files[1]).contains("polyline"));
    }

    #[test]
    fn percentiles_have_the_digits_that_they_need() {
        assert_eq!([0.0, 1.0, 2.0, 3.0, 4.0].map(percentile), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
