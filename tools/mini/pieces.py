# SPDX-License-Identifier: MIT
"""What training and baselines of the bundled model share: the regions that build_data.py wrote, random
windows of them by fixed shares, the program's rule of open frames, AUROC. Needs numpy only."""
import os

import numpy as np

TABLE = np.frombuffer(b"KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF", np.uint8)
ESM = {c: i + 4 for i, c in enumerate("LAGVSERTIDPKQNFYMHWCXBUZO.-")}
AA_ID = np.array([ESM.get(chr(c), 3) if chr(c) != "*" else 255 for c in TABLE], np.uint8)
LETTER = np.frombuffer(b"ACGT", np.uint8)
GROUPS = ["dsDNA phage/archaeal", "dsDNA", "ssRNA(+)", "ssRNA(-)", "dsRNA", "RT", "ssDNA", "ssRNA phage", "unassigned",
          "bacteria", "archaea", "fungi", "invertebrate", "plant", "protozoa", "vertebrate"]
# share of the windows of each class
VIRAL_SHARE = {"dsDNA phage/archaeal": .26, "unassigned": .24, "dsDNA": .11, "ssRNA(+)": .15, "ssRNA(-)": .11, "dsRNA": .04,
               "RT": .04, "ssDNA": .04, "ssRNA phage": .01}
OTHER_SHARE = {"bacteria/genome_chunks.fna.gz": .34, "bacteria/plasmids_refseq.fna.gz": .08, "archaea/genome_chunks.fna.gz": .09,
               "fungi/nuclear_and_records.fna.gz": .09, "fungi/organelle_genomes_mldsp.fna.gz": .03,
               "invertebrate/nuclear_and_records.fna.gz": .07, "invertebrate/organelle_genomes_mldsp.fna.gz": .04,
               "plant/nuclear_and_records.fna.gz": .04, "plant/organelle_genomes_mldsp.fna.gz": .04,
               "protozoa/nuclear_and_records.fna.gz": .02, "protozoa/organelle_genomes_mldsp.fna.gz": .02,
               "vertebrate/human_reference_pieces.fna.gz": .08, "vertebrate/nuclear_and_records.fna.gz": .04,
               "vertebrate/organelle_genomes_mldsp.fna.gz": .02}


class Regions:
    def __init__(self, folder):
        z = np.load(os.path.join(folder, "regions.npz"))
        t = z["two_bit"]
        self.base = np.stack((t >> 6, t >> 4 & 3, t >> 2 & 3, t & 3), 1).reshape(-1)
        self.start, self.length = z["start"], z["length"]
        self.viral, self.valid = z["viral"], z["valid"]
        self.group, self.family, self.source = (z[k + "_names"][z[k]] for k in ("group", "family", "source"))
        self.place = np.array(["/".join(f.split("/")[1:3]) for f in self.source])
        self.label = np.array([GROUPS.index(g) if v else GROUPS.index(p.split("/")[0])
                               for v, g, p in zip(self.viral, self.group, self.place)])

    def sampler(self, valid):
        """Lists of (region indices, cumulative bases) with their shares, by class."""
        out = []
        for viral, shares, key in ((True, VIRAL_SHARE, self.group), (False, OTHER_SHARE, self.place)):
            parts = []
            for name, share in shares.items():
                idx = np.flatnonzero((self.viral == viral) & (self.valid == valid) & (key == name))
                if len(idx):
                    parts.append((share, idx, np.cumsum(self.length[idx].astype(np.float64))))
            total = sum(p[0] for p in parts)
            out.append([(s / total, i, c) for s, i, c in parts])
        return out


def sample_windows(reg, sampler, rng, n, lengths, mutation=0.0):
    """n windows: (class, region, codes); half of them viral."""
    out = []
    for _ in range(n):
        viral = rng.random() < .5
        parts = sampler[0 if viral else 1]
        k = np.searchsorted(np.cumsum([p[0] for p in parts]), rng.random())
        _, idx, cum = parts[min(k, len(parts) - 1)]
        r = idx[min(np.searchsorted(cum, rng.random() * cum[-1]), len(idx) - 1)]
        want = lengths(rng)
        n_bp = min(want, int(reg.length[r]))
        at = int(reg.start[r]) + int(rng.integers(0, int(reg.length[r]) - n_bp + 1))
        codes = reg.base[at:at + n_bp]
        if rng.random() < .5:
            codes = 3 - codes[::-1]
        if mutation and rng.random() < .5:  # up to 3 % of the bases change
            hit = rng.random(n_bp) < mutation * rng.random()
            codes = np.where(hit, (codes + rng.integers(1, 4, n_bp)) & 3, codes).astype(np.uint8)
        out.append((viral, r, codes))
    return out


def frames_of(codes):
    """Kept frames of one window: [(nucleotide string, protein ids)], the program's rule."""
    out = []
    for strand in (codes, 3 - codes[::-1]):
        for f in range(3):
            n = (len(strand) - f) // 3
            if n < 1:
                continue
            c = strand[f:f + 3 * n].reshape(n, 3).astype(np.int32)
            aa = AA_ID[c[:, 0] * 16 + c[:, 1] * 4 + c[:, 2]]
            if (aa == 255).any():
                continue
            out.append((LETTER[strand[f:f + 3 * n + 1]].tobytes().decode(), aa))
    return out


def auroc(score, truth):
    order = np.argsort(score, kind="stable")
    s, y = score[order], truth[order]
    rank = np.empty(len(s))
    _, inv, count = np.unique(s, return_inverse=True, return_counts=True)
    end = np.cumsum(count)
    rank = (end - (count - 1) / 2)[inv]
    n1 = y.sum()
    n0 = len(y) - n1
    return float((rank[y].sum() - n1 * (n1 + 1) / 2) / (n1 * n0)) if n1 and n0 else float("nan")
