"""Findings as plain JSON, for rows, the ledger and the audit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rollout.guards import Findings, Reading


def findings_document(findings: Findings) -> dict[str, object]:
    """Return findings field by field; of each guard its evidence, its limit, and how near to it that is."""
    return {
        "readings": {str(guard): _reading(each) for guard, each in findings.readings.items()},
        "canary": asdict(findings.canary),
        "control": asdict(findings.control),
        "canary_upper_ratio": findings.canary_upper_ratio,
        "promotion_evidence": findings.promotion_evidence,
        "faster_ttft_evidence": findings.faster_ttft_evidence,
        "throughput_evidence": findings.throughput_evidence,
        "served_s": findings.served_s,
        "quiet_s": findings.quiet_s,
        "attribution": str(findings.attribution),
        "needed_requests": findings.needed_requests,
        "canary_per_s": findings.canary_per_s,
    }


def _reading(reading: Reading) -> dict[str, object]:
    return {
        "evidence": reading.evidence,
        "limit": reading.limit,
        "meter_ratio": reading.meter_ratio,
        "is_tripped": reading.is_tripped,
    }
