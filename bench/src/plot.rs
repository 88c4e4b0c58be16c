//! Horizontal bars with whiskers from quartile to quartile, as SVG. Written by hand: a plotting crate would be a hundred times as
//! much code for rectangles and text.

use std::fmt::Write as _;

/// A bar.
pub struct Bar {
    pub label: String,
    pub value: f64,
    pub quartiles: (f64, f64),
    /// Ours, shown in another colour.
    pub ours: bool,
}

const WIDTH: f64 = 900.0;
const LABELS: f64 = 300.0;
const VALUES: f64 = 90.0;
const ROW: f64 = 30.0;
const TOP: f64 = 60.0;

/// The picture; `note` says what is better, and of what machine the figures are.
pub fn bars(title: &str, note: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value.max(bar.quartiles.1));
    let scale = (WIDTH - LABELS - VALUES) / most.fold(f64::MIN_POSITIVE, f64::max);
    let mut y = TOP;
    let mut body = String::new();
    for bar in bars {
        let colour = if bar.ours { "#0b6e4f" } else { "#8a94a6" };
        let (middle, width) = (y + ROW / 2.0, (bar.value * scale).max(1.0));
        let (low, high) = (
            LABELS + bar.quartiles.0 * scale,
            LABELS + bar.quartiles.1 * scale,
        );
        let label = escape(&bar.label);
        let text = number(bar.value);
        // Writing to a string does not fail.
        let _ = writeln!(
            body,
            r##"<text x="{:.0}" y="{:.0}" text-anchor="end">{label}</text>
<rect x="{LABELS}" y="{:.0}" width="{width:.1}" height="{:.0}" fill="{colour}"/>
<path d="M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8" stroke="#222" fill="none"/>
<text x="{:.1}" y="{:.0}">{text}</text>"##,
            LABELS - 8.0,
            middle + 5.0,
            y + 5.0,
            ROW - 10.0,
            middle - 4.0,
            middle - 4.0,
            (LABELS + width).max(high) + 8.0,
            middle + 5.0,
        );
        y += ROW;
    }
    let height = y + 20.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="14">
<rect width="100%" height="100%" fill="#fff"/>
<text x="16" y="26" font-size="17" font-weight="bold">{}</text>
<text x="16" y="46" fill="#555" font-size="12">{}</text>
{body}</svg>
"##,
        escape(title),
        escape(note)
    )
}

/// Three digits that mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place).is_multiple_of(3) && !text.ends_with('-') {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_groups_of_them() {
        let texts = [1.234, 12.34, 123.4, 1234.5, 1_234_567.0].map(number);
        assert_eq!(texts, ["1.23", "12.3", "123", "1234", "1,234,567"]);
    }

    #[test]
    fn a_label_cannot_leave_its_element() {
        let bar = Bar {
            label: "<a & b>".into(),
            value: 1.0,
            quartiles: (1.0, 1.0),
            ours: true,
        };
        let svg = bars("t", "n", &[bar]);
        assert!(svg.contains("&lt;a &amp; b&gt;"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
    }
}
