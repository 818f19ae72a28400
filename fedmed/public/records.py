"""The public cohorts that FedMed knows: who made them, under which licence, how a copy proves to be the right one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from fedmed.errors import SourceError
from fedmed.typed_yaml import Record

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

_FLAMBY = "https://raw.githubusercontent.com/owkin/FLamby"
_PHYSIONET = "https://physionet.org/files"


class SourceFile(Record):
    """One file as its publisher serves it.

    `basis` says where the expected hash comes from. Where no hash could be had, the file is taken as it comes, and the
    hash of the content (:class:`PublicCohort`) decides alone.
    """

    name: FileName
    url: Annotated[str, StringConstraints(pattern=r"^https://")]
    basis: str
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    at_most: int = Field(64 << 20, gt=0, description="bytes; a longer answer is refused")


class PublicCohort(Record):
    """A public cohort.

    `content` is the SHA-256 of the whole prepared table in canonical form (:mod:`fedmed.public.content`). It does not
    depend on packaging, compression or the order of rows, and every copy is held against it, wherever it came from.
    `sites` gives the rows of every hospital, in the division that the cohort's preset takes.
    """

    name: str
    title: str
    licence: str
    licence_url: str
    citation: str
    page: str
    content: Sha256
    sites: dict[str, int]
    files: tuple[SourceFile, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """All rows of all hospitals."""
        return sum(self.sites.values())

    @property
    def embedded(self) -> bool:
        """Whether the table ships with FedMed, so that nothing is fetched."""
        return not self.files


PUBLIC_COHORTS: dict[str, PublicCohort] = {
    source.name: source
    for source in (
        PublicCohort(
            name="heart_disease",
            title="Angiographic heart disease, four hospitals",
            licence="CC BY 4.0",
            licence_url="https://creativecommons.org/licenses/by/4.0/",
            citation="Janosi, A., Steinbrunn, W., Pfisterer, M., Detrano, R. (1988). Heart Disease. UCI Machine"
            " Learning Repository, dataset 45. doi:10.24432/C52P4X",
            page="https://archive.ics.uci.edu/dataset/45/heart+disease",
            content="774a370b62c43cf61a5ae859c2c76e31a595bcd0b7a4146c0b4c27ad90abe6fe",
            sites={"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200},
            notes=("ships with FedMed",),
        ),
        PublicCohort(
            name="tcga_brca",
            title="Survival with breast cancer, six regions of the United States",
            licence="MIT (preparation); TCGA clinical data are open access under the NIH Genomic Data Sharing policy",
            licence_url="https://github.com/owkin/FLamby/blob/main/LICENSE",
            citation="Ogier du Terrail, J. et al. (2022). FLamby: Datasets and Benchmarks for Cross-Silo Federated"
            " Learning in Realistic Healthcare Settings. NeurIPS Datasets and Benchmarks. arXiv:2210.04620. Data: The"
            " Cancer Genome Atlas Network (2012). Comprehensive molecular portraits of human breast tumours. Nature"
            " 490, 61–70. doi:10.1038/nature11412",
            page="https://github.com/owkin/FLamby/tree/main/flamby/datasets/fed_tcga_brca",
            content="990a67d8b648d60bcd1020c735d25d272ce6ab854c25e33dbf58a46d8f7419c2",
            sites={
                "region_0": 311,
                "region_1": 196,
                "region_2": 206,
                "region_3": 162,
                "region_4": 162,
                "region_5": 51,
            },
            files=(
                SourceFile(
                    name="brca.csv",
                    url=f"{_FLAMBY}/57a7e5c8f2bc26929c239e217ed3a41d6252bd53/flamby/datasets/fed_tcga_brca/brca.csv",
                    sha256="07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
                    basis="computed from a copy of the file at this commit",
                    at_most=1 << 20,
                ),
                SourceFile(
                    name="train_test_split.csv",
                    # Pinned to a commit: a later one ends the file with a line feed, which is another hash.
                    url=f"{_FLAMBY}/1b37901a15c316d16d4b9d5705aaefa5a803dba3/flamby/datasets/fed_tcga_brca/"
                    "dataset_creation_scripts/train_test_split.csv",
                    sha256="1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
                    basis="computed from a copy of the file at this commit",
                    at_most=1 << 20,
                ),
            ),
            notes=("8 of the 1,096 patients are in no region and are left out, as FLamby does",),
        ),
        PublicCohort(
            name="eicu_demo",
            title="Death in hospital after the first day in intensive care, five groups of United States hospitals",
            licence="ODbL 1.0",
            licence_url="https://opendatacommons.org/licenses/odbl/1-0/",
            citation="Johnson, A., Pollard, T., Badawi, O., Raffa, J. (2021). eICU Collaborative Research Database Demo"
            " (version 2.0.1). PhysioNet. doi:10.13026/4mxk-na84. Pollard, T. J. et al. (2018). The eICU Collaborative"
            " Research Database, a freely available multi-center database for critical care research. Scientific Data"
            " 5, 180178. doi:10.1038/sdata.2018.178",
            page="https://physionet.org/content/eicu-crd-demo/2.0.1/",
            content="7e0e36d28342b085e8697e3091a8c003edc7340a8e2a096825901d04df67c4d4",
            sites={"midwest": 718, "northeast": 138, "south": 666, "unknown": 199, "west": 458},
            files=tuple(
                SourceFile(
                    name=name,
                    url=f"{_PHYSIONET}/eicu-crd-demo/2.0.1/{name}",
                    basis="no hash at hand; the content decides",
                    at_most=16 << 20,
                )
                for name in ("apacheApsVar.csv.gz", "patient.csv.gz", "hospital.csv.gz")
            ),
            notes=(
                "a patient may have several stays: rows of one uniquepid stay together",
                "hospitals without a region make the site `unknown`; each of the 186 hospitals can be a site of its"
                " own: name them hospital_<hospitalid> in federation.sites",
            ),
        ),
        PublicCohort(
            name="physionet2012",
            title="Death in hospital from 48 hours of intensive care, four kinds of unit",
            licence="ODC-By 1.0",
            licence_url="https://opendatacommons.org/licenses/by/1-0/",
            citation="Silva, I., Moody, G., Scott, D. J., Celi, L. A., Mark, R. G. (2012). Predicting In-Hospital"
            " Mortality of ICU Patients: The PhysioNet/Computing in Cardiology Challenge 2012. Computing in Cardiology"
            " 39, 245–248. Goldberger, A. et al. (2000). PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23),"
            " e215–e220. doi:10.1161/01.CIR.101.23.e215",
            page="https://physionet.org/content/challenge-2012/1.0.0/",
            content="17cd45404ab15ac8ca1376e45c4381048001e94d4030ea90b1c9e22ee8e8462d",
            sites={"ccu": 577, "csru": 874, "micu": 1481, "sicu": 1068},
            files=(
                SourceFile(
                    name="set-a.tar.gz",
                    url=f"{_PHYSIONET}/challenge-2012/1.0.0/set-a.tar.gz",
                    sha256="8cb250f179cd0952b4b9ebcf8954b63d70383131670fac1cfee13deaa13ca920",
                    basis="as independent public projects record it, beside the hash of Outcomes-a.txt",
                ),
                SourceFile(
                    name="Outcomes-a.txt",
                    url=f"{_PHYSIONET}/challenge-2012/1.0.0/Outcomes-a.txt",
                    sha256="2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
                    basis="computed from a copy",
                    at_most=1 << 20,
                ),
            ),
            notes=("set A, the 4,000 stays whose outcomes were published first",),
        ),
        PublicCohort(
            name="pneumoniamnist",
            title="Pneumonia on chest radiographs of children, divided among hospitals that do not exist",
            licence="CC BY 4.0",
            licence_url="https://creativecommons.org/licenses/by/4.0/",
            citation="Yang, J. et al. (2023). MedMNIST v2: A large-scale lightweight benchmark for 2D and 3D biomedical"
            " image classification. Scientific Data 10, 41. doi:10.1038/s41597-022-01721-8. Data: Kermany, D. S. et al."
            " (2018). Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning. Cell 172,"
            " 1122–1131. doi:10.1016/j.cell.2018.02.010",
            page="https://medmnist.com/",
            content="52a55180df02443568487c73b546dbb377189797f222b92cf136b0c5e37ff623",
            sites={
                "hospital_1": 2157,
                "hospital_2": 873,
                "hospital_3": 1216,
                "hospital_4": 789,
                "hospital_5": 385,
                "hospital_6": 436,
            },
            files=(
                SourceFile(
                    name="pneumoniamnist.npz",
                    url="https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1",
                    md5="28209eda62fecd6e6a2d98b1501bb15f",
                    basis="published with the file by MedMNIST; the content's SHA-256 is checked as well",
                ),
            ),
            notes=(
                "one hospital in truth: FedMed divides it with skewed labels and sizes (fedmed.data.skew)",
                "the three official splits are joined, and every site splits its own rows again",
            ),
        ),
    )
}


def public_cohort(name: str) -> PublicCohort:
    """The public cohort of this name.

    Raises:
        SourceError: if FedMed knows none.
    """
    if name not in PUBLIC_COHORTS:
        raise SourceError(
            f"{name!r} is no public cohort that FedMed knows: expected one of {', '.join(PUBLIC_COHORTS)}"
        )
    return PUBLIC_COHORTS[name]
