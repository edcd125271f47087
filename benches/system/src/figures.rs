//! The figures of a measurement.

/// The figures of one measurement, by name.
pub type Figures = Vec<(&'static str, f64)>;

/// Of each figure the median of the runs.
pub fn medians(runs: &[Figures]) -> Figures {
    let names = runs.first().map(|figures| figures.iter().map(|(name, _)| *name)).into_iter().flatten();
    names
        .enumerate()
        .map(|(index, name)| {
            let mut values: Vec<f64> = runs.iter().map(|figures| figures[index].1).collect();
            values.sort_by(f64::total_cmp);
            (name, values[values.len() / 2])
        })
        .collect()
}

/// The value below which this part of the values lies.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
