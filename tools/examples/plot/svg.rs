//! Bars with their spread and goal as SVG text. Written by hand, since colours that follow the page's theme need a style sheet in the
//! picture (`prefers-color-scheme`), which plotting crates do not write.

use std::fmt::Write as _;

/// Bars with an axis of their own.
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// One row. Numbers are ratios, 0 or more.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) goal: Option<f64>,
}

impl Bar {
    fn class(&self) -> &'static str {
        match self.goal {
            None => "plain",
            Some(goal) if self.median >= goal => "met",
            Some(_) => "missed",
        }
    }
}

// Pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 240.0;
const RIGHT: f64 = 150.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
const LEGEND: f64 = 34.0;
const TITLE: f64 = 30.0;
const AXIS: f64 = 30.0;

const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 14px }
.small { font-size: 12px; fill: #59636e }
.met { fill: #2f7fc1 } .missed { fill: #d9822b } .plain { fill: #8c959f }
.grid { stroke: #d1d9e0 } .one { stroke: #59636e } .spread { stroke: #1f2328; stroke-width: 1.5 } .goal { stroke: #1f2328; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 }
.met { fill: #4493d8 } .missed { fill: #e0954a } .plain { fill: #7d8590 }
.grid { stroke: #3d444d } .one { stroke: #9198a1 } .spread, .goal { stroke: #f0f6fc }
}
";

/// The picture.
pub(crate) fn draw(sections: &[Section]) -> String {
    let mut body = String::new();
    let mut y = legend(&mut body);
    for section in sections {
        y = draw_section(&mut body, section, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\">\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn legend(out: &mut String) -> f64 {
    let mut x = 8.0;
    for (class, what, room) in
        [("met", "median, goal met", 145.0), ("missed", "goal missed", 115.0), ("plain", "no goal", 90.0)]
    {
        push(out, &format!("<rect class=\"{class}\" x=\"{x}\" y=\"8\" width=\"14\" height=\"{BAR}\"/>"));
        text(out, "small", "start", x + 20.0, 19.0, what);
        x += room;
    }
    line(out, "spread", (x, 15.0), (x + 24.0, 15.0));
    text(out, "small", "start", x + 30.0, 19.0, "least to most of the rounds");
    line(out, "goal", (x + 208.0, 7.0), (x + 208.0, 23.0));
    text(out, "small", "start", x + 216.0, 19.0, "goal");
    LEGEND
}

fn draw_section(out: &mut String, section: &Section, top: f64) -> f64 {
    let longest =
        section.bars.iter().flat_map(|bar| [bar.most, bar.median, bar.goal.unwrap_or(0.0)]).fold(1.0, f64::max);
    let step = step(longest);
    let end = (longest / step).ceil() * step;
    let at = |ratio: f64| LEFT + ratio / end * PLOT;
    text(out, "title", "start", 8.0, top + 20.0, &section.title);
    let rows = top + TITLE;
    let bottom = section.bars.iter().fold(rows, |y, _| y + ROW);
    let mut tick = 0.0;
    while tick <= end + step / 2.0 {
        line(out, "grid", (at(tick), rows), (at(tick), bottom + 4.0));
        text(out, "small", "middle", at(tick), bottom + 18.0, &short(tick));
        tick += step;
    }
    let mut y = rows;
    for bar in &section.bars {
        let middle = y + ROW / 2.0;
        text(out, "", "end", LEFT - 10.0, middle + 4.5, &bar.label);
        let (x, width, class) = (LEFT, at(bar.median) - LEFT, bar.class());
        push(
            out,
            &format!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>",
                middle - BAR / 2.0
            ),
        );
        line(out, "spread", (at(bar.least), middle), (at(bar.most), middle));
        for end in [bar.least, bar.most] {
            line(out, "spread", (at(end), middle - 3.5), (at(end), middle + 3.5));
        }
        let mut value = format!("{:.2}", bar.median);
        if let Some(goal) = bar.goal {
            line(out, "goal", (at(goal), y + 1.0), (at(goal), y + ROW - 1.0));
            let _ = write!(value, " (goal {})", short(goal));
        }
        text(out, "", "start", WIDTH - RIGHT + 12.0, middle + 4.5, &value);
        y += ROW;
    }
    // Level with what it is compared with.
    line(out, "one", (at(1.0), rows), (at(1.0), bottom + 4.0));
    bottom + AXIS
}

/// Distance of the axis' ticks: at most ten of them.
fn step(longest: f64) -> f64 {
    [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0].into_iter().find(|step| longest / step <= 10.0).unwrap_or(longest / 5.0)
}

fn short(number: f64) -> String {
    format!("{:.2}", number).trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    push(out, &format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
}

fn text(out: &mut String, class: &str, anchor: &str, x: f64, y: f64, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    push(out, &format!("<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{what}</text>"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(median: f64, goal: Option<f64>) -> Bar {
        Bar { label: "a < b".to_owned(), median, least: median * 0.9, most: median * 1.1, goal }
    }

    #[test]
    fn a_bar_tells_whether_its_goal_is_met() {
        assert_eq!(bar(2.0, Some(2.0)).class(), "met");
        assert_eq!(bar(1.99, Some(2.0)).class(), "missed");
        assert_eq!(bar(9.0, None).class(), "plain");
    }

    #[test]
    fn everything_lies_within_the_picture() {
        for median in [0.01, 0.7, 1.0, 2.4, 37.0] {
            let picture =
                draw(&[Section { title: "x & y".to_owned(), bars: vec![bar(median, Some(2.0)), bar(median, None)] }]);
            assert!(picture.contains("a &lt; b") && picture.contains("x &amp; y"));
            for position in picture.split("x2=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
                let position: f64 = position.parse().unwrap();
                assert!((0.0..=WIDTH).contains(&position), "{position} with {median}");
            }
        }
    }

    #[test]
    fn an_axis_has_at_most_ten_ticks_beside_zero() {
        for longest in [0.3, 1.0, 1.01, 2.6, 9.0, 10.1, 99.0, 480.0] {
            let step = step(longest);
            assert!((longest / step).ceil() <= 10.0, "{longest}: {step}");
        }
    }
}
