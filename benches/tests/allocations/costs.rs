//! Tells what a part costs from what a request costs, by fetching as many parts in different numbers of requests.

use std::fmt;

use crate::heap::Counted;

/// Sites that cost less, of a part and of a request, are not shown.
const SHOWN_FROM: (f64, f64) = (0.02, 0.2);

/// What some further parts took.
pub(crate) struct Stretch {
    /// Parts.
    pub(crate) parts: f64,
    /// Requests that brought them.
    pub(crate) requests: f64,
    /// Allocations meanwhile.
    pub(crate) allocations: Counted,
}

/// Allocations of one part and of one request.
pub(crate) struct Costs {
    /// Of a part, whatever the length of its run.
    pub(crate) per_part: f64,
    /// Of a request, whatever its parts.
    pub(crate) per_request: f64,
    by_site: Vec<(f64, f64, String)>,
}

impl Costs {
    /// Solves `parts * per_part + requests * per_request = allocations` for two stretches.
    pub(crate) fn of(one: &Stretch, other: &Stretch) -> Self {
        let determinant = one.parts * other.requests - other.parts * one.requests;
        let solve = |these: f64, those: f64| {
            (
                (these * other.requests - those * one.requests) / determinant,
                (those * one.parts - these * other.parts) / determinant,
            )
        };
        let (per_part, per_request) = solve(one.allocations.total(), other.allocations.total());
        let mut sites: Vec<&str> = one.allocations.sites().collect();
        sites.extend(other.allocations.sites());
        sites.sort_unstable();
        sites.dedup();
        let mut by_site: Vec<(f64, f64, String)> = sites
            .into_iter()
            .map(|site| {
                let (part, request) = solve(one.allocations.at(site), other.allocations.at(site));
                (part, request, site.to_owned())
            })
            .collect();
        by_site.sort_by(|one, two| two.1.total_cmp(&one.1));
        Self {
            per_part,
            per_request,
            by_site,
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, request) = (self.per_part, self.per_request);
        write!(
            f,
            "{part:.2} allocations per part, {request:.1} per request"
        )?;
        for (part, request, site) in &self.by_site {
            if part.abs() >= SHOWN_FROM.0 || request.abs() >= SHOWN_FROM.1 {
                write!(f, "\n  {part:8.3} {request:8.2} {site}")?;
            }
        }
        Ok(())
    }
}
