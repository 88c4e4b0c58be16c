//! One figure over the rounds of a run, and what is said of it: median and quartiles, since a machine that does other things as
//! well has outliers, and they all go the same way.

use std::time::Duration;

/// The values of one figure, one for each round.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn values(&self) -> &[f64] {
        &self.0
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// How many times as much as `base`: the median of what it is in each round, as the machine is not equally fast in all of them.
    pub fn times(&self, base: &Self) -> f64 {
        let ratios = self.0.iter().zip(&base.0);
        let ratios: Self = ratios.map(|(value, base)| value / base).collect();
        ratios.median()
    }

    /// First and third quartile.
    pub fn quartiles(&self) -> (f64, f64) {
        (self.quantile(0.25), self.quantile(0.75))
    }

    /// Interpolated between the two nearest values; not a number without any.
    pub fn quantile(&self, at: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let position = at * f64::from(u32::try_from(last).unwrap_or(u32::MAX));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the length"
        )]
        let below = position.floor() as usize;
        let above = (below + 1).min(last);
        sorted[below] + (sorted[above] - sorted[below]) * position.fract()
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

impl FromIterator<Duration> for Series {
    /// In microseconds.
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        times
            .into_iter()
            .map(|time| time.as_secs_f64() * 1e6)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_and_do_not_depend_on_the_order() {
        let series: Series = [40.0, 10.0, 30.0, 20.0].into_iter().collect();
        assert_eq!((series.median(), series.quartiles()), (25.0, (17.5, 32.5)));
        assert_eq!((series.quantile(0.0), series.quantile(1.0)), (10.0, 40.0));
    }

    #[test]
    fn a_round_that_is_slow_is_slow_for_both() {
        let series: Series = [10.0, 100.0, 30.0].into_iter().collect();
        let base: Series = [20.0, 200.0, 20.0].into_iter().collect();
        assert!((series.times(&base) - 0.5).abs() < 1e-9);
        assert!(series.times(&Series::default()).is_nan());
    }

    #[test]
    fn nothing_measured_is_not_a_number() {
        assert!(Series::default().median().is_nan());
    }
}
