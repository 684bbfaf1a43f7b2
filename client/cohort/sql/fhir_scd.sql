-- The cohort of sudden cardiac death out of FHIR R4 resources: one row per ECG, which is an Observation.
--
-- ${data_end} is the day up to which the export is complete (2024-12-31). The tables are described in docs/databases.md.
-- ICD codes count with all below them; of SNOMED CT, CPT and LOINC the codes that stand here. Change them where a hospital
-- records otherwise: copy this file and name the copy under table.query.sql.
WITH wanted (name, system, code) AS (
    VALUES
    ('ecg', 'http://loinc.org', '11524-6'),      -- EKG study
    ('ecg', 'http://loinc.org', '34534-8'),      -- 12 lead EKG panel
    ('ecg', 'http://snomed.info/sct', '268400002'),
    ('vf', 'http://snomed.info/sct', '71908006'),
    ('vf', 'icd10', 'I49.0'),
    ('vt', 'http://snomed.info/sct', '25569003'),
    ('vt', 'icd10', 'I47.2'),
    ('mi', 'http://snomed.info/sct', '57054005'),
    ('mi', 'icd10', 'I21'),
    ('old_mi', 'http://snomed.info/sct', '1755008'),
    ('old_mi', 'icd10', 'I25.2'),
    ('heart_failure', 'http://snomed.info/sct', '84114007'),
    ('heart_failure', 'icd10', 'I50'),
    ('diabetes', 'http://snomed.info/sct', '73211009'),
    ('diabetes', 'icd10', 'E10'),
    ('diabetes', 'icd10', 'E11'),
    ('hypertension', 'http://snomed.info/sct', '38341003'),
    ('hypertension', 'icd10', 'I10'),
    ('defibrillator', 'http://www.ama-assn.org/go/cpt', '33249'),
    ('defibrillator', 'http://www.ama-assn.org/go/cpt', '33240'),
    ('defibrillator', 'http://fhir.de/CodeSystem/bfarm/ops', '5-377.5'),
    ('lvef', 'http://loinc.org', '10230-1'),
    ('lvef', 'http://loinc.org', '18043-0'),
    ('bmi', 'http://loinc.org', '39156-5'),
    ('cause', 'http://loinc.org', '79378-6')     -- cause of death
),

named AS (
    SELECT DISTINCT c.kind, c.resource_id, c.patient_id, c.happened_at, w.name
    FROM (
        SELECT 'condition' AS kind, resource_id, patient_id, system, code, happened_at FROM condition
        UNION ALL
        SELECT 'procedure', resource_id, patient_id, system, code, happened_at FROM procedure
        UNION ALL
        SELECT 'observation', resource_id, patient_id, system, code, happened_at FROM observation
    ) AS c
    INNER JOIN wanted AS w
        ON c.system = w.system AND c.code = w.code
        OR w.system = 'icd10' AND c.system LIKE '%icd-10%' AND starts_with(c.code, w.code)
),

observed AS (SELECT DISTINCT resource_id, value, unit, value_code, value_system, file FROM observation),

ecg AS (
    SELECT n.resource_id AS ecg_id, n.patient_id, n.happened_at AS recorded_at, COALESCE(o.file, n.resource_id) AS file
    FROM named AS n
    INNER JOIN observed AS o ON n.resource_id = o.resource_id
    WHERE n.kind = 'observation' AND n.name = 'ecg' AND n.happened_at IS NOT NULL
),

-- Relative to each ECG: the first event after it, and what was known by then.
around AS (
    SELECT
        e.ecg_id,
        MIN(CASE WHEN h.name = 'vf' AND h.happened_at > e.recorded_at THEN h.happened_at END) AS vf_date,
        MIN(CASE WHEN h.name = 'vt' AND h.happened_at > e.recorded_at THEN h.happened_at END) AS vt_date,
        MIN(CASE WHEN h.name IN ('vf', 'vt') AND h.happened_at > e.recorded_at THEN h.happened_at END) AS vfvt_date,
        MIN(CASE WHEN h.name = 'mi' AND h.happened_at > e.recorded_at THEN h.happened_at END) AS mi_date,
        MIN(CASE WHEN h.name = 'defibrillator' THEN h.happened_at END) AS icd_date,
        MAX(CASE WHEN h.name = 'heart_failure' AND h.happened_at <= e.recorded_at THEN 1 ELSE 0 END) AS heart_failure,
        MAX(CASE WHEN h.name = 'diabetes' AND h.happened_at <= e.recorded_at THEN 1 ELSE 0 END) AS diabetes,
        MAX(CASE WHEN h.name = 'hypertension' AND h.happened_at <= e.recorded_at THEN 1 ELSE 0 END) AS hypertension,
        MAX(CASE WHEN h.name IN ('old_mi', 'mi') AND h.happened_at <= e.recorded_at THEN 1 ELSE 0 END) AS previous_mi
    FROM ecg AS e
    LEFT JOIN named AS h ON e.patient_id = h.patient_id AND h.kind <> 'observation'
    GROUP BY e.ecg_id
),

-- The last value of the year before the ECG, or of the month after it where there was none.
measured AS (
    SELECT ecg_id, name, value
    FROM (
        SELECT
            e.ecg_id, n.name, CASE WHEN n.name = 'lvef' AND o.unit = '%' THEN o.value / 100 ELSE o.value END AS value,
            ROW_NUMBER() OVER (
                PARTITION BY e.ecg_id, n.name
                ORDER BY
                    CASE WHEN CAST(n.happened_at AS DATE) <= CAST(e.recorded_at AS DATE) THEN 0 ELSE 1 END,
                    ABS(DATE_DIFF('day', e.recorded_at, n.happened_at)), n.resource_id
            ) AS place
        FROM ecg AS e
        INNER JOIN named AS n ON e.patient_id = n.patient_id AND n.kind = 'observation' AND n.name IN ('lvef', 'bmi')
        INNER JOIN observed AS o ON n.resource_id = o.resource_id
        WHERE o.value IS NOT NULL AND DATE_DIFF('day', e.recorded_at, n.happened_at) BETWEEN -365 AND 30
    ) AS ranked
    WHERE place = 1
),

cause AS (
    SELECT n.patient_id, MIN(o.value_code) AS death_cause
    FROM named AS n
    INNER JOIN observed AS o ON n.resource_id = o.resource_id
    WHERE n.name = 'cause' AND o.value_system LIKE '%icd-10%'
    GROUP BY n.patient_id
),

last_stay AS (
    SELECT p.patient_id, MAX(v.start_at) AS admission_time
    FROM patient AS p
    INNER JOIN encounter AS v ON p.patient_id = v.patient_id
    WHERE
        v.class IN ('IMP', 'EMER', 'ACUTE', 'NONAC') AND CAST(v.start_at AS DATE) <= CAST(p.died_at AS DATE)
        AND CAST(COALESCE(v.end_at, p.died_at) AS DATE) >= CAST(p.died_at AS DATE)
    GROUP BY p.patient_id
),

seen AS (SELECT patient_id, MAX(COALESCE(end_at, start_at)) AS last_encounter FROM encounter GROUP BY patient_id)

SELECT
    e.ecg_id,
    e.patient_id,
    e.file,
    e.recorded_at,
    CASE p.gender WHEN 'female' THEN 'F' WHEN 'male' THEN 'M' END AS sex,
    CAST(p.birth_date AS DATE) AS birth_date,
    CASE WHEN p.birth_date IS NULL THEN EXTRACT(YEAR FROM e.recorded_at) - p.birth_year END AS age,
    p.died_at AS death_date,
    c.death_cause,
    CASE WHEN p.died_at IS NULL THEN NULL WHEN s.patient_id IS NULL THEN 0 ELSE 1 END AS death_in_hospital,
    s.admission_time,
    a.vf_date,
    a.vt_date,
    a.vfvt_date,
    a.mi_date,
    a.icd_date,
    v.last_encounter,
    CAST('${data_end}' AS DATE) AS data_end,
    f.value AS lvef,
    b.value AS bmi,
    a.heart_failure,
    a.diabetes,
    a.hypertension,
    a.previous_mi
FROM ecg AS e
INNER JOIN patient AS p ON e.patient_id = p.patient_id
LEFT JOIN around AS a ON e.ecg_id = a.ecg_id
LEFT JOIN measured AS f ON e.ecg_id = f.ecg_id AND f.name = 'lvef'
LEFT JOIN measured AS b ON e.ecg_id = b.ecg_id AND b.name = 'bmi'
LEFT JOIN cause AS c ON e.patient_id = c.patient_id
LEFT JOIN last_stay AS s ON e.patient_id = s.patient_id
LEFT JOIN seen AS v ON e.patient_id = v.patient_id
-- Who died nobody knows when is neither dead on a day nor alive.
WHERE NOT (p.deceased AND p.died_at IS NULL)
ORDER BY e.ecg_id
