-- MIMIC-IV-ECG's list of recordings beside MIMIC-IV's patients: one row per ECG. Both files lie in one folder.
SELECT
    CAST(r.study_id AS VARCHAR) AS ecg_id,
    CAST(r.subject_id AS VARCHAR) AS patient_id,
    r.path AS file,
    CAST(r.ecg_time AS TIMESTAMP) AS recorded_at,
    p.gender AS sex,
    p.anchor_age + EXTRACT(YEAR FROM CAST(r.ecg_time AS TIMESTAMP)) - p.anchor_year AS age,
    CAST(p.dod AS DATE) AS death_date
FROM record_list AS r
LEFT JOIN patients AS p ON r.subject_id = p.subject_id
ORDER BY r.study_id
