"""What hospitals call their columns, in a dozen languages of Europe, written out and as they are usually cut short.

Names are compared without case, accents and marks: ``Patienten-Nr.`` is ``patientennr``.
"""

from __future__ import annotations

import re
import unicodedata

from ecgshared.study.columns import STANDARD_COLUMNS

_WORDS: dict[str, str] = {
    "ecg_id": """ecgid ecgno ecgnumber ecg ekg ekgid ekgnr ekgnummer examid examno examnumber exam recordid recordingid
        studyid undersökning undersökningsid undersökningsnummer untersuchung untersuchungsnummer untersuchungsid
        untersuchungsnr auftragsnummer accession accessionnumber idecg necg numeroecg idexamen numeroexamen examen
        numexamen idestudio numeroestudio registro idregistro orderid testid ekgundersøgelse onderzoek onderzoeksnummer
        esame idesame badanie tutkimus""",
    "patient_id": """patientid patient patientno patientnr patientnumber patno patnr pid mrn medicalrecordnumber subject
        subjectid personid person patientennummer patientennr patientenid patientenkennung pseudonym
        personnummer personnr patientnummer löpnummer pseudonymid idpatient numeropatient nopatient npatient ipp nip
        numerodedossier idpaciente paciente numeropaciente nhc historiaclinica numerohistoria patid patientids mrnno
        idpat hospno hospitalno hospitalnumber hospnr cpr cprnr cprnummer nhsnumber nhsno paziente idpaziente
        codicepaziente numeropaziente patiëntnr prontuário idpacjenta numerpacjenta pacjent potilas potilasnumero
        potilastunnus pacienteid""",
    "file": """file filename filepath path ecgfile datei dateiname dateipfad pfad ekgdatei fil filnamn sökväg ekgfil
        fichier nomfichier nomdufichier chemin archivo fichero nombrearchivo nombredearchivo ruta record recording
        filenamehr waveform waveformpath bestand bestandsnaam nomefile percorso arquivo nomedoarquivo nomearquivo
        plik nazwapliku tiedosto tiedostonimi filnavn filsti""",
    "recorded_at": """recordedat recordingdate recordingtime ecgdate ecgdatetime date datetime acquisitiondate
        acquisitiondatetime acquired examdate studydate testdate datum ekgdatum ekgzeit zeitstempel aufnahmedatum
        aufnahmezeit aufzeichnungsdatum untersuchungsdatum datumzeit datumtid undersökningsdatum ekgtid tidpunkt
        registreringsdatum inspelningsdatum dateecg datedelecg dateenregistrement dateexamen dateheure fecha fechaecg
        fechaexamen fechahora fechadeexamen fecharegistro timestamp dataecg datadelecg dataesame datadoecg dataexame
        datadoexame ecgdatum onderzoeksdatum opnamedatum ekgdato dato undersøgelsesdato undersøkelsesdato databadania
        dataekg tutkimuspäivä dateofecg dateofrecording""",
    "age": """age ageatecg ageatexam ageyears alter alterjahre alterbeiekg patientenalter ålder ålderår agepatient
        ageans edad edadanos alder leeftijd età etàanni eta idade ageyrs ageatecgyrs yrs wiek ikä""",
    "sex": "sex gender geschlecht kön kon sexe genre sexo género genero kjønn køn geslacht sesso "
    "geschl gesch płeć sukupuoli",
    "birth_date": """birthdate dateofbirth dob born birth geburtsdatum geboren gebdatum gebdat födelsedatum född
        datedenaissance datenaissance naissance ddn fechadenacimiento fechanacimiento nacimiento fødselsdato
        datadinascita datanascita nascita datadenascimento datanascimento datanasc geboortedatum dataurodzenia
        syntymäaika syntymäpäivä""",
    "device": """device devicename cart machine model gerät geraet gerätename ekggerät apparat utrustning enhet
        ekgapparat appareil modele modèle equipo dispositivo aparato""",
    "death_date": """deathdate dateofdeath dod died death todesdatum sterbedatum verstorbenam verstorben dödsdatum
        avliden datedudeces datededeces datedeces deces fechadefuncion fechademuerte fechafallecimiento defuncion
        fallecimiento exitus dødsdato todestag
        gestorbenam verstam dateofdecease datadecesso datadimorte datadamorte dataobito
        datadoóbito overlijdensdatum overleden datumoverlijden datazgonu zgon kuolinpäivä""",
    "death_cause": """deathcause causeofdeath causeicd10 deathcode deathicd10 underlyingcause icd10death todesursache
        icdtod grundleiden dödsorsak underliggandedödsorsak causedudeces causedeces causededeces causademuerte
        causadefuncion causafallecimiento causamorte causadimorte causadecesso causadamorte causaobito
        doodsoorzaak dødsårsag przyczynazgonu kuolinsyy cod underlyingcod""",
    "death_in_hospital": """deathinhospital inpatientdeath deathinpatient diedinhospital inhospitaldeath hospitaldeath
        todimkrankenhaus todimhaus imkrankenhausverstorben intrahospital dödpåsjukhus avlidenpåsjukhus deceshopital
        decesalhopital muertehospitalaria muerteenhospital fallecidoenhospital""",
    "admission_time": """admissiontime admissiondate admitdatetime admitdate admission admitted aufnahme
        aufnahmezeitpunkt krankenhausaufnahme aufnahmedatumkh inskrivning inskrivningsdatum inskriven dateadmission
        admissionle fechaingreso ingreso""",
    "vfvt_date": """vfvtdate vfvt vfdate vtdate vtvfdate vtvf firstvtvf kammerflimmern kammarflimmer
        fibrillationventriculaire fibrilacionventricular""",
    "mi_date": """midate firstmi infarctiondate amidate infarktdatum infarkt hjärtinfarktdatum dateinfarctus
        fechainfarto""",
    "icd_date": """icddate icdimplant icdimplantdate icdimplanted icddatum defibrillatordate icdimplantation
        defibrillator defiimplantation defibrillatordatum datedefibrillateur fechadai""",
    "index_date": "indexdate eventdate indexdatum ereignisdatum händelsedatum dateindex fechaindice dateevenement",
    "last_encounter": """lastencounter lastseen seenlast lastvisit lastcontact followupend letzterkontakt letztervisite
        letztervorstellung sistakontakt senastebesök senastkontakt dernierevisite derniercontact ultimavisita
        ultimocontacto""",
    "data_end": """dataend datathrough completeuntil completeto registrycompleteuntil dataavailableuntil censordate
        registerend datenende registerende dataslut registerslut findesdonnees findedatos""",
    "lvef": "lvef ef ejectionfraction lvejectionfraction ejektionsfraktion auswurffraktion efproc fevg fei "
    "fractionejection fevi fraccioneyeccion",
    "bmi": "bmi bodymassindex imc",
    "heart_failure": """heartfailure hf chf herzinsuffizienz herzinsuff hjärtsvikt hjertesvigt hjertesvikt hartfalen
        insuffisancecardiaque insuficienciacardiaca scompenso scompensocardiaco""",
    "diabetes": "diabetes dm diabetesmellitus diabmell diab diabete diabète cukrzyca",
    "hypertension": "hypertension htn hypertonie bluthochdruck hypertoni hypertensionarterielle hta hipertension",
    "previous_mi": """previousmi priormi historymi oldmi frühererinfarkt vorinfarkt zustandnachinfarkt zninfarkt
        zustandnachmi stpinfarkt tidigareinfarkt antecedentinfarctus infartoprevio infartopregresso""",
}
TIME_OF_DAY = """time timeofday recordingtime acquisitiontime ecgtime uhrzeit zeit ekguhrzeit tid klockslag tidpunkt kl
    heure heureecg hora horaecg klokkeslett tijd ora"""

_MARKS = re.compile(r"[\W_]+")


def plain(name: str) -> str:
    """Return a name as names are compared: small letters and digits, no accents."""
    folded = unicodedata.normalize("NFKD", name.casefold().replace("ø", "o").replace("æ", "ae").replace("ß", "ss"))
    return _MARKS.sub("", "".join(letter for letter in folded if not unicodedata.combining(letter)))


def _german(name: str) -> str:
    """The same with umlauts written out, as old systems do."""
    return plain(name.casefold().replace("ä", "ae").replace("ö", "oe").replace("ü", "ue"))


MEANINGS: dict[str, str] = {
    spelling: column
    for column, words in reversed(_WORDS.items())
    for word in words.split()
    for spelling in (plain(word), _german(word))
} | {plain(column): column for column in _WORDS}
"""``{plain name: standard column}``."""

TIMES: frozenset[str] = frozenset(plain(word) for word in TIME_OF_DAY.split())
_AFFIXES = re.compile(
    r"^(?:pat(?:ient(?:en)?s?)?|ekg|ecg|the|la|le|el|der|die|das)|(?:patient(?:en)?|ekg|ecg|jahre?|years?|ar|ans|anos|"
    r"icd10?|percent|prozent|procent|yn|jn)$"
)


_SMALL_WORDS = "a of the at in der die das des dem von vom zum am im de del la el le les l d du den det av i vid"
_SMALL = frozenset(_SMALL_WORDS.split())


def meaning_of(name: str) -> tuple[str, int] | None:
    """Return the standard column a name stands for, and how sure that is.

    3 for the standard column's own name, 2 for a word hospitals call it by, 1 for a part of one.
    """
    if name in STANDARD_COLUMNS:
        return name, 3
    key = plain(name)
    words = [plain(word) for word in re.split(r"[\W_]+", name) if word]
    for whole in (key, "".join(word for word in words if word not in _SMALL)):
        if whole in MEANINGS:
            return MEANINGS[whole], 2
    shorter = _AFFIXES.sub("", key)
    if shorter != key and shorter in MEANINGS:
        return MEANINGS[shorter], 1
    found = {MEANINGS[word] for word in words if word in MEANINGS and len(word) > 2}
    return (found.pop(), 1) if len(found) == 1 else None
